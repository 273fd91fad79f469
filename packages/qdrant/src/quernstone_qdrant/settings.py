"""Settings of a collection: the vectors of its points, and how they are stored and indexed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.documents.bm25 import (
    LANGUAGES,
    NEWEST_RULE,
    Bm25Rule,
    Bm25Text,
    SparseVector,
)
from quernstone_qdrant.documents.layouts import Layout, LayoutName, layout_of
from quernstone_qdrant.documents.nodes import NEWEST_NODE_RULE, NodeRule
from quernstone_qdrant.documents.paths import field_paths
from quernstone_qdrant.documents.records import NEWEST_RECORD_RULE, RecordRule

VectorBatch: TypeAlias = "Float32Array | Sequence[Bm25Text | SparseVector]"
"""One vector per point, (points, dimensions), or texts to encode for BM25, or sparse vectors."""
AnyVectorBatch: TypeAlias = "VectorBatch | Sequence[Float32Array]"
"""A `VectorBatch`, or one multivector per point, each of shape (vectors, dimensions)."""

Datatype = Literal["float32", "float16", "uint8"]
Quantization = Literal["scalar", "binary", "turbo1", "turbo2", "turbo4", "turbo8"]
"""Compression of the searched vectors. The digit of TurboQuant is the number of bits per value."""
FieldType = Literal["keyword", "tenant", "integer", "float", "bool", "datetime", "uuid", "text"]
"""Type of a payload index. `tenant`: a keyword by which most searches filter, such as a customer;
the server stores the points of a tenant together. Use it with `payload_m`."""
Lexical = Literal["auto", "sparse", "text"]
Preset = Literal["dense", "mrl", "scalar", "binary", "turbo", "float16", "uint8"]

DeferIndex = Literal["none", "m0", "threshold"]
"""How to defer a server's indexing during a load. `threshold`: never reach the indexing threshold;
an existing graph stays. `m0`: build no graph; only for an empty collection, because it drops an
existing graph. In a collection that holds points, `m0` is replaced by `threshold`, with a note."""

PREFIX = "prefix"
"""Name of the short vector of an MRL pair."""
BM25 = "bm25"
"""Name of the sparse vector."""

GRAPH: Mapping[str, str] = {
    "m": "m",
    "ef_construct": "ef_construct",
    "full_scan_threshold": "full_scan_threshold",
    "max_indexing_threads": "max_indexing_threads",
    "payload_m": "payload_m",
    "graph_on_disk": "on_disk",
}
"""Settings of the HNSW graph, and their names in Qdrant."""
STORAGE: Mapping[str, str] = {
    "payload_on_disk": "on_disk_payload",
    "shards": "shard_number",
    "replication_factor": "replication_factor",
    "write_consistency": "write_consistency_factor",
}
"""Settings of shards, replicas and payloads, and their names in Qdrant."""
CONFIGURED = (*GRAPH, *STORAGE)
"""Settings for which None means the server's default, or an existing collection's value."""
IN_PLACE = frozenset((*CONFIGURED, "quantization", "on_disk", "indexes")) - {"shards"}
"""Settings that can change in a collection that holds points."""

_AT_LEAST_ONE = ("shards", "replication_factor", "write_consistency")
_MIN_PREFIX = 32
_SIGMAS = 8.0
"""Clipping limit of uint8, in multiples of the root mean square of a unit vector's values. Recall
at 10 over 20,000 vectors of the tiny model is 0.976; it is 0.92 with 6 and 0.97 with 12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """One dense vector of every point."""

    size: int
    distance: Literal["Cosine", "Euclid"] = "Cosine"
    datatype: Datatype = "float32"
    quantization: Quantization | None = None
    on_disk: bool = False
    """Keep the full vectors on disk; quantized vectors are always in RAM."""
    graph: bool = True
    """Build an HNSW graph. A vector that only rescores the hits of another one needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How a new collection stores and indexes its points. Those in `IN_PLACE` can change later.

    The default is one unnamed cosine vector, which LangChain and LlamaIndex use by default.

    Raises:
        ConfigError: A value is not valid, or two settings exclude each other.
    """

    layout: LayoutName = "universal"
    """Layout of the payload; see `layouts.py`."""
    vector: str = ""
    """Name of the full vector; empty for an unnamed vector."""
    prefix: int | Literal["auto"] | None = None
    """Size of a second, short MRL vector that is searched first; the full vector then rescores the
    hits. `auto`: a quarter of the full size, at least 32. None: no short vector."""
    datatype: Datatype = "float32"
    """Type of the full vector's values. Only `QdrantSearcher` can search `uint8`: values are scaled
    and compared by Euclidean distance, which ranks them as the cosine does."""
    quantization: Quantization | None = None
    """Quantization of the vector that is searched first. Full vectors rescore the hits."""
    on_disk: bool = False
    """Keep full vectors on disk."""
    bm25: Lexical | None = None
    """BM25 for hybrid search. `sparse`: a sparse vector per point. `text`: a text index with scores
    (Qdrant 1.20 or newer). `auto`: `sparse` in a new collection. None: no BM25."""
    language: str = "english"
    """Language of the stop words and the stemmer of BM25: one of `LANGUAGES`."""
    bm25_rule: Bm25Rule | Literal["auto"] = "auto"
    """Rule by which BM25 splits texts; see `documents/bm25.py`. `auto`: the newest one."""
    node_rule: NodeRule | Literal["auto"] = "auto"
    """Rule for LlamaIndex nodes; see `documents/nodes.py`. `auto`: the newest one."""
    record_rule: RecordRule | Literal["auto"] = "auto"
    """Rule for the metadata of rows of files; see `RecordRule`."""
    embed_metadata: bool = True
    """Embed LlamaIndex nodes with their metadata, as LlamaIndex does (`MetadataMode.EMBED`)."""
    indexes: Mapping[str, FieldType] = field(default_factory=dict)
    """Types of the metadata fields to index for filters. Created before the first point."""
    m: int | None = None
    """Edges per node of the HNSW graph; None: the server's default, as for all later fields."""
    ef_construct: int | None = None
    """Neighbors considered when building the graph."""
    full_scan_threshold: int | None = None
    """Size in KB of the vectors below which a search compares them all instead of the graph."""
    max_indexing_threads: int | None = None
    """Threads that build one graph; 0: the server chooses."""
    payload_m: int | None = None
    """Edges per node of the graphs of filtered points. With `m=0` only tenants have graphs."""
    graph_on_disk: bool | None = None
    """Keep the graph on disk."""
    payload_on_disk: bool | None = None
    """Keep payloads on disk."""
    shards: int | None = None
    """Number of shards."""
    replication_factor: int | None = None
    """Number of replicas of each shard."""
    write_consistency: int | None = None
    """Number of replicas that must confirm a write."""

    def __post_init__(self) -> None:
        if self.prefix is not None and not self.vector:
            raise ConfigError("`prefix` needs a named full vector: set `vector` to a name")
        if self.vector in (PREFIX, BM25):
            raise ConfigError(
                f"`vector` is {self.vector!r}, which is reserved for another vector; "
                "choose another name"
            )
        if isinstance(self.prefix, int) and self.prefix < 1:
            raise ConfigError(f"`prefix` is {self.prefix}; it must be at least 1")
        if self.datatype == "uint8" and self.quantization and self.prefix is None:
            raise ConfigError(
                f"`quantization` is {self.quantization!r} and `datatype` is 'uint8'; "
                "use only one of them"
            )
        if self.bm25 == "text" and not self.text_field:
            raise ConfigError(
                f"layout {self.layout!r} has no text field to index for `bm25='text'`; use another "
                "layout, or `bm25='sparse'`"
            )
        for name, value, known in (
            ("layout", self.layout, LayoutName),
            ("datatype", self.datatype, Datatype),
            ("quantization", self.quantization, Quantization),
            ("bm25", self.bm25, Lexical),
        ):
            check_choice(name, value, get_args(known))
        rules = {"bm25_rule": Bm25Rule, "node_rule": NodeRule, "record_rule": RecordRule}
        for name, known in rules.items():
            check_choice(name, getattr(self, name), ["auto", *get_args(known)])
        check_choice("language", self.language, LANGUAGES)
        if self.bm25 == "text" and self.bm25_rule != "auto":
            raise ConfigError(
                f"`bm25_rule` is {self.bm25_rule} and `bm25` is 'text': a text index splits texts "
                "by Qdrant's own rule; use `bm25='sparse'`, or leave `bm25_rule` out"
            )
        for name, kind in self.indexes.items():
            check_choice(f"indexes[{name!r}]", kind, get_args(FieldType))
        for name in CONFIGURED:
            value, least = getattr(self, name), int(name in _AT_LEAST_ONE)
            if value is not None and value < least:
                raise ConfigError(f"`{name}` is {value}; it must be at least {least}")

    def resolved(self, dimensions: int) -> CollectionSettings:
        """Replace each `auto` with its value for a new collection.

        Args:
            dimensions: Size of the embeddings.

        Raises:
            ConfigError: The short vector is not shorter than the full one.
        """
        prefix, bm25, rule = self.prefix, self.bm25, self.bm25_rule
        if prefix == "auto":
            prefix = max(dimensions // 4, _MIN_PREFIX)
        if prefix is not None and prefix >= dimensions:
            raise ConfigError(
                f"`prefix` is {prefix}; it must be below {dimensions}, the size of the embeddings"
            )
        if bm25 == "auto":
            bm25 = "sparse"
        if bm25 == "sparse" and rule == "auto":
            rule = NEWEST_RULE
        newest = {"node_rule": NEWEST_NODE_RULE, "record_rule": NEWEST_RECORD_RULE}
        new: dict[str, Any] = {k: v for k, v in newest.items() if getattr(self, k) == "auto"}
        return replace(self, prefix=prefix, bm25=bm25, bm25_rule=rule, **new)

    def vectors(self, dimensions: int) -> Mapping[str, VectorSettings]:
        """Return the dense vectors of a point by name, for embeddings of size `dimensions`."""
        paired = isinstance(self.prefix, int)
        full = VectorSettings(
            size=dimensions,
            distance="Euclid" if self.datatype == "uint8" else "Cosine",
            datatype=self.datatype,
            quantization=None if paired else self.quantization,
            on_disk=self.on_disk,
            graph=not paired,
        )
        if not isinstance(self.prefix, int):
            return {self.vector: full}
        short = VectorSettings(
            size=self.prefix, quantization=self.quantization, on_disk=self.quantization is not None
        )
        return {self.vector: full, PREFIX: short}

    @property
    def text_field(self) -> str:
        """Payload path of the text; empty if the layout has no field for it."""
        return self.payloads.text_field or ""

    @property
    def payloads(self) -> Layout:
        """The layout of the payloads, with the rules for LlamaIndex nodes."""
        rule = NEWEST_NODE_RULE if self.node_rule == "auto" else self.node_rule
        return layout_of(self.layout, rule, embed_metadata=self.embed_metadata)

    def fields(self) -> Mapping[str, FieldType]:
        """Return the types of the payload paths to index, without `key_fields`."""
        layout = self.payloads
        return {layout.field(field_paths(name)[0]): kind for name, kind in self.indexes.items()}

    def key_fields(self) -> tuple[str, ...]:
        """Return the payload paths by which documents and nodes are found and deleted."""
        return self.payloads.key_fields

    def ignored_by_embedded(self) -> list[str]:
        """Describe the settings in use that the embedded client silently ignores."""
        server_only = {
            "quantization": self.quantization is not None,
            f"{self.datatype} storage": self.datatype != "float32",
            "vectors on disk": self.on_disk,
            "an HNSW graph": any(getattr(self, name) is not None for name in GRAPH),
            "payload indexes": bool(self.indexes),
            "payloads on disk": self.payload_on_disk is not None,
            "shards": self.shards is not None,
            "replicas": self.has_replicas,
        }
        return [name for name, used in server_only.items() if used]

    @property
    def has_replicas(self) -> bool:
        """True if a setting of replicas is given."""
        return self.replication_factor is not None or self.write_consistency is not None

    def minimum_versions(self) -> Mapping[str, tuple[int, int]]:
        """Return the (major, minor) version of Qdrant that each newer setting in use needs."""
        needed: dict[str, tuple[int, int]] = {}
        if (self.quantization or "").startswith("turbo"):
            newest = self.quantization == "turbo8"
            needed[f"quantization={self.quantization!r}"] = (1, 20) if newest else (1, 18)
        if self.bm25 == "text":
            needed["bm25='text' (a text index with scores)"] = (1, 20)
        return needed

    def vectors_to_write(
        self, embeddings: Float32Array, texts: Sequence[str]
    ) -> Mapping[str, VectorBatch]:
        """Return the vectors to write for a batch.

        Args:
            embeddings: Unit vectors. Shape: (len(texts), dimensions)
            texts: The embedded texts.

        Returns:
            The rows of each vector by name, in the order of the texts.
        """
        if len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        rows: dict[str, VectorBatch] = {self.vector: self.encode(embeddings)}
        if isinstance(self.prefix, int):
            rows[PREFIX] = unit_prefix(embeddings, self.prefix)
        if self.bm25 == "sparse":
            rows[BM25] = [self.bm25_text(text) for text in texts]
        return rows

    def bm25_text(self, text: str) -> Bm25Text:
        """Return a document or a query, with the language and the BM25 rule of the collection."""
        rule = NEWEST_RULE if self.bm25_rule == "auto" else self.bm25_rule
        return Bm25Text(text, self.language, rule)

    def encode(self, vectors: Float32Array) -> Float32Array:
        """Convert unit vectors to the values that the full vector stores.

        Args:
            vectors: Shape: (..., dimensions)
        """
        if self.datatype != "uint8":
            return vectors
        scale = uint8_scale(vectors.shape[-1])
        stored: Float32Array = np.clip(np.rint(vectors * scale) + 128, 0, 255).astype(np.float32)
        return stored

    @property
    def scores_are_cosines(self) -> bool:
        """True if the target's scores are cosines; otherwise, compute them with `cosine`."""
        return self.datatype != "uint8"

    def cosine(self, query: Float32Array, stored: Float32Array) -> float:
        """Return the cosine of a query and a stored full vector.

        Args:
            query: A unit vector, not encoded. Shape: (dimensions,)
            stored: A vector as the target returns it. Shape: (dimensions,)
        """
        if self.datatype == "uint8":
            stored = stored - 128
        norm = float(np.linalg.norm(stored)) or 1.0
        return float(query @ stored) / norm

    def differences(self, existing: CollectionSettings) -> list[tuple[str, object, object]]:
        """Compare with the settings of an existing collection.

        Returns:
            (name, existing value, value in `self`) per difference. `auto` equals any value except
            None, and None in `CONFIGURED` equals any value. Indexes are only added.
        """
        differences: list[tuple[str, object, object]] = []
        for name, wanted in asdict(self).items():
            found = getattr(existing, name)
            if name == "indexes":
                wanted = {**found, **wanted}
            unnamed = wanted is None and name in CONFIGURED
            if wanted != found and not unnamed and not (wanted == "auto" and found is not None):
                differences.append((name, found, wanted))
        return differences

    def to_json(self) -> dict[str, Any]:
        """Return the values that differ from the default, for the collection's metadata."""
        default = asdict(CollectionSettings())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CollectionSettings:
        """Create settings from the result of `to_json`.

        Raises:
            ConfigError: A setting is unknown, because a newer version of this package wrote it.
        """
        if unknown := sorted(set(stored) - {known.name for known in fields(cls)}):
            raise ConfigError(
                f"the collection has unknown settings ({', '.join(unknown)}), because a newer "
                "version of quernstone-qdrant created it; upgrade quernstone-qdrant"
            )
        oldest = {"node_rule": 1, "record_rule": 1}  # version 0.1.0 did not record its rules
        oldest |= {"bm25_rule": 1} if stored.get("bm25") == "sparse" else {}
        return cls(**{**oldest, **stored})


def uint8_scale(dimensions: int) -> float:
    """Return the scale of uint8 values. A unit vector's values are about 1/sqrt(dimensions)."""
    return 127 * math.sqrt(dimensions) / _SIGMAS


def check_choice(name: str, value: object, known: Sequence[object]) -> None:
    """Raise a `ConfigError` unless `value` is None or one of `known`."""
    if value is not None and value not in known:
        raise ConfigError(f"`{name}` is {value!r}; it must be one of {', '.join(map(str, known))}")


PRESETS: Mapping[Preset, CollectionSettings] = {
    "dense": CollectionSettings(),
    "mrl": CollectionSettings(vector="dense", prefix="auto", quantization="scalar", on_disk=True),
    "scalar": CollectionSettings(quantization="scalar", on_disk=True),
    "binary": CollectionSettings(quantization="binary", on_disk=True),
    "turbo": CollectionSettings(quantization="turbo4", on_disk=True),
    "float16": CollectionSettings(datatype="float16"),
    "uint8": CollectionSettings(datatype="uint8"),
}
"""Presets, also to start from: `dataclasses.replace(PRESETS["mrl"], prefix=128)`."""

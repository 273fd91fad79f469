"""What a collection is made of: which vectors a point has, and how they are stored and indexed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import LANGUAGES, Bm25Text
from quernstone_qdrant.documents.layouts import KEY_FIELD, LayoutName, layout_of

Rows: TypeAlias = "Float32Array | Sequence[Bm25Text]"
"""One vector of each point of a batch. Shape: (points, numbers), or texts for BM25."""

Datatype = Literal["float32", "float16", "uint8"]
Quantization = Literal["scalar", "binary", "turbo1", "turbo2", "turbo4", "turbo8"]
"""What is searched instead of the full numbers; the digit of TurboQuant is bits per number."""
FieldType = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text"]
Lexical = Literal["auto", "sparse", "text"]
Preset = Literal["dense", "mrl", "scalar", "binary", "turbo", "float16", "uint8"]

DeferIndex = Literal["none", "m0", "threshold"]
"""How to put a server's indexing off during a load. `m0`: no graph is built (needs little memory).
`threshold`: no segment is large enough to be indexed (fastest; needs memory for all vectors)."""

PREFIX = "prefix"
"""Name of the short vector of an MRL pair."""
BM25 = "bm25"
"""Name of the sparse vector."""

_MIN_PREFIX = 32
_SIGMAS = 8.0
"""Where uint8 cuts: this many times the root mean square of a unit vector's numbers. Of the ten
nearest of 20,000 vectors of the tiny model it keeps 0.976; 6 keeps 0.92, and 12 keeps 0.97."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """One dense vector of every point."""

    size: int
    distance: Literal["Cosine", "Euclid"] = "Cosine"
    datatype: Datatype = "float32"
    quantization: Quantization | None = None
    on_disk: bool = False
    """Whether the vectors stay on disk; quantised ones are in RAM in any case."""
    graph: bool = True
    """Whether there is an HNSW graph: a vector that only puts others' hits in order needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How a new collection stores and indexes its points. They cannot be changed later.

    The default is one unnamed cosine vector, which LangChain and LlamaIndex find by themselves.

    Raises:
        ConfigError: Settings that cannot go together.
    """

    layout: LayoutName = "universal"
    """Shape of the payload; see `layouts.py`."""
    vector: str = ""
    """Name of the full vector; empty: it has none."""
    prefix: int | Literal["auto"] | None = None
    """MRL: numbers of a second, short vector, which is searched first; the full vector then puts
    its hits in order. `auto`: a quarter of the full one, at least 32. None: no short vector."""
    datatype: Datatype = "float32"
    """Of the full vector's numbers. With `uint8`, only `QdrantSearcher` can search: the numbers are
    scaled, and compared by Euclidean distance, which orders them as the cosine does."""
    quantization: Quantization | None = None
    """Of the vector that is searched first. The hits are put in order with the full numbers."""
    on_disk: bool = False
    """Whether full vectors stay on disk."""
    bm25: Lexical | None = None
    """For hybrid search. `sparse`: a sparse vector per point. `text`: a text index with scores,
    which Qdrant has from 1.20. `auto`: sparse wherever it can be made. None: no BM25."""
    language: str = "english"
    """Of the stop words of BM25, and of its stemmer if there is one: one of `LANGUAGES`."""
    indexes: Mapping[str, FieldType] = field(default_factory=dict)
    """Metadata fields to be filtered on; their indexes are created before the first point."""
    m: int | None = None
    """Edges per node of the HNSW graph; None: the server's default."""
    ef_construct: int | None = None
    """Neighbours considered when the graph is built; None: the server's default."""
    shards: int | None = None
    """Shards of the collection; None: the server's default."""

    def __post_init__(self) -> None:
        if self.prefix is not None and not self.vector:
            raise ConfigError("a pair needs names: give the full vector one with `vector`")
        if self.vector in (PREFIX, BM25):
            raise ConfigError(f"`vector` is {self.vector!r}, the name of another vector")
        if isinstance(self.prefix, int) and self.prefix < 1:
            raise ConfigError(f"`prefix` is {self.prefix}; it must be at least 1")
        if self.datatype == "uint8" and self.quantization and self.prefix is None:
            raise ConfigError(
                f"`quantization` is {self.quantization!r} and `datatype` is 'uint8'; use one"
            )
        if self.bm25 == "text" and not self.text_field:
            raise ConfigError(
                f"layout {self.layout!r} has no text field to be indexed; use another, or "
                "`bm25='sparse'`, for which the embedded client needs the extra `edge`"
            )
        for name, value, known in (
            ("layout", self.layout, LayoutName),
            ("datatype", self.datatype, Datatype),
            ("quantization", self.quantization, Quantization),
            ("bm25", self.bm25, Lexical),
        ):
            _check_choice(name, value, get_args(known))
        _check_choice("language", self.language, LANGUAGES)
        for name, kind in self.indexes.items():
            _check_choice(f"indexes[{name!r}]", kind, get_args(FieldType))

    def resolved(self, dimensions: int, *, can_encode: bool) -> CollectionSettings:
        """Replace each `auto` by what it means for a new collection.

        Args:
            dimensions: Of the embeddings.
            can_encode: Whether somebody can make BM25 vectors for the target.

        Raises:
            ConfigError: The short vector is not shorter.
        """
        prefix, bm25 = self.prefix, self.bm25
        if prefix == "auto":
            prefix = max(dimensions // 4, _MIN_PREFIX)
        if prefix is not None and prefix >= dimensions:
            raise ConfigError(f"`prefix` is {prefix}; it must be below {dimensions}, the full size")
        if bm25 == "auto":
            bm25 = "sparse" if can_encode else "text"
        return replace(self, prefix=prefix, bm25=bm25)

    def vectors(self, dimensions: int) -> Mapping[str, VectorSettings]:
        """The dense vectors of a point by name, for embeddings of `dimensions` numbers."""
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
        """Path of the text in the payload; empty where no field of its own holds it."""
        return layout_of(self.layout).text_field or ""

    def fields(self) -> Mapping[str, FieldType]:
        """Paths of the payload that are filtered on, apart from `key_fields`."""
        layout = layout_of(self.layout)
        return {layout.field(name): kind for name, kind in self.indexes.items()}

    def key_fields(self) -> tuple[str, ...]:
        """Paths of the payload by which a document is deleted."""
        # LlamaIndex deletes by `doc_id`
        return (KEY_FIELD, "doc_id") if layout_of(self.layout).node else (KEY_FIELD,)

    def needs_server(self) -> list[str]:
        """What of these settings the embedded client does not have; it drops it silently."""
        named = {
            "quantisation": self.quantization is not None,
            f"{self.datatype} storage": self.datatype != "float32",
            "vectors on disk": self.on_disk,
            "an HNSW graph": self.m is not None or self.ef_construct is not None,
            "payload indexes": bool(self.indexes),
            "shards": self.shards is not None,
        }
        return [name for name, asked in named.items() if asked]

    def rows(self, embeddings: Float32Array, texts: Sequence[str]) -> Mapping[str, Rows]:
        """What is written for a batch.

        Args:
            embeddings: Unit vectors. Shape: (len(texts), dimensions)
            texts: What was embedded.

        Returns:
            The rows of each vector by name, in the order of the texts.
        """
        if len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        rows: dict[str, Rows] = {self.vector: self.encode(embeddings)}
        if isinstance(self.prefix, int):
            rows[PREFIX] = unit_prefix(embeddings, self.prefix)
        if self.bm25 == "sparse":
            rows[BM25] = [Bm25Text(text, self.language) for text in texts]
        return rows

    def encode(self, vectors: Float32Array) -> Float32Array:
        """Unit vectors as the full vector stores them. Shape: any, the last axis being a vector."""
        if self.datatype != "uint8":
            return vectors
        scale = _uint8_scale(vectors.shape[-1])
        stored: Float32Array = np.clip(np.rint(vectors * scale) + 128, 0, 255).astype(np.float32)
        return stored

    @property
    def scores_are_cosines(self) -> bool:
        """Whether the target's scores are; otherwise `cosine` computes them of what it found."""
        return self.datatype != "uint8"

    def cosine(self, query: Float32Array, stored: Float32Array) -> float:
        """Cosine of a query and a full vector as it was read back.

        Args:
            query: A unit vector, not encoded. Shape: (dimensions,)
            stored: Shape: (dimensions,)
        """
        if self.datatype == "uint8":
            stored = stored - 128
        norm = float(np.linalg.norm(stored)) or 1.0
        return float(query @ stored) / norm

    def differences(self, made: CollectionSettings) -> list[tuple[str, object, object]]:
        """(name, made, wanted) of what a collection with the settings `made` has otherwise.

        An `auto` agrees with everything but None.
        """
        return [
            (name, there, here)
            for name, here in asdict(self).items()
            if here != (there := getattr(made, name)) and not (here == "auto" and there is not None)
        ]

    def to_json(self) -> dict[str, Any]:
        """What differs from the default, for the collection's metadata."""
        default = CollectionSettings()
        return {
            name: value for name, value in asdict(self).items() if value != getattr(default, name)
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CollectionSettings:
        """Read `to_json` back.

        Raises:
            ConfigError: A newer version of this package wrote it.
        """
        unknown = sorted(set(stored) - {known.name for known in fields(cls)})
        if unknown:
            raise ConfigError(
                f"the collection has unknown settings ({', '.join(unknown)}); a newer version of "
                "quernstone-qdrant made it, which is needed here, too"
            )
        return cls(**stored)


def unit_prefix(vectors: Float32Array, size: int) -> Float32Array:
    """Cut vectors to their first numbers and make them unit vectors again.

    Args:
        vectors: Shape: (..., dimensions)
        size: Numbers to keep.
    """
    cut = vectors[..., :size]
    norms = np.linalg.norm(cut, axis=-1, keepdims=True)
    short: Float32Array = (cut / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
    return short


def _uint8_scale(dimensions: int) -> float:
    """Steps per unit. A number of a unit vector is about 1/sqrt(dimensions) in size."""
    return 127 * math.sqrt(dimensions) / _SIGMAS


def _check_choice(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"`{name}` is {value!r}; it must be one of {', '.join(known)}")


PRESETS: Mapping[Preset, CollectionSettings] = {
    "dense": CollectionSettings(),
    "mrl": CollectionSettings(vector="dense", prefix="auto", quantization="scalar", on_disk=True),
    "scalar": CollectionSettings(quantization="scalar", on_disk=True),
    "binary": CollectionSettings(quantization="binary", on_disk=True),
    "turbo": CollectionSettings(quantization="turbo4", on_disk=True),
    "float16": CollectionSettings(datatype="float16"),
    "uint8": CollectionSettings(datatype="uint8"),
}
"""Starting points: `dataclasses.replace(PRESETS["mrl"], prefix=128)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsWish:
    """What somebody asks of a collection; what is None stays as it is.

    Raises:
        ConfigError: There is no preset or layout of that name.
    """

    preset: Preset | CollectionSettings | None = None
    layout: LayoutName | None = None
    hybrid: bool | None = None

    def __post_init__(self) -> None:
        self.of(CollectionSettings())

    def of(self, settings: CollectionSettings) -> CollectionSettings:
        """The settings that meet the wish, starting from `settings`."""
        if isinstance(self.preset, CollectionSettings):
            settings = self.preset
        elif self.preset is not None:
            _check_choice("preset", self.preset, list(PRESETS))
            settings = PRESETS[self.preset]
        if self.layout is not None:
            settings = replace(settings, layout=self.layout)
        if self.hybrid is not None and self.hybrid != (settings.bm25 is not None):
            settings = replace(settings, bm25="auto" if self.hybrid else None)
        return settings


ANY_SETTINGS = SettingsWish()
"""No wish."""

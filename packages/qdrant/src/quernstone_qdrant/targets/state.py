"""The state of a collection, as every target reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METADATA_KEY = "quernstone"
"""Key of the collection's metadata under which this package stores its own."""
IDENTITY_PREFIX = "quernstone_identity_"
"""Prefix of the metadata key with the identity of an adopted collection. If several loaders adopt
it at once, the last one overwrites `METADATA_KEY`, but each keeps its own key. Only a true value
counts."""
UNUSED_KEY = "quernstone_unused_vectors"
"""Metadata key with the names of dense vectors that loaders do not touch: those of a migration in
place, and the empty definition that may remain after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorState:
    """One dense vector of an existing collection."""

    size: int
    distance: str
    """`Cosine`, `Dot`, `Euclid` or `Manhattan`."""
    datatype: str = "float32"
    quantization: str | None = None
    """Kind of quantization as `CollectionSettings` names it, or `product`."""
    on_disk: bool = False
    multivector: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """When a server indexes, and with how many edges per node. None leaves a value unchanged."""

    m: int | None = None
    """Edges per node of the graph, for the vectors without a value of their own."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """`m` of the vectors that set their own, by name."""
    threshold: int | None = None
    """Size in KB from which a segment's vectors are indexed; 0 disables indexing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of requests in a collection's strict mode; None: no limit."""

    upsert: int | None = None
    """Points per upsert."""
    query: int | None = None
    """Points per page of a scroll, per search, and per stage of a search."""
    read_rate: int | None = None
    """Points read per minute, and thus by one request."""
    write_rate: int | None = None
    """Points written or deleted per minute, and thus by one request."""
    oversampling: float | None = None
    """Oversampling of a search by quantized vectors."""
    searches: int | None = None
    """Searches per request."""
    condition: int | None = None
    """Values that a condition of a filter lists."""
    indexes: int | None = None
    """Payload indexes of the collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """The state of a collection."""

    metadata: Mapping[str, Any]
    """Metadata of this package and of other programs. Empty if the server is too old to keep it."""
    points: int
    """Approximate number of points: a server's figure may lag. `Target.count` is exact."""
    vectors: Mapping[str, VectorState]
    """Dense vectors by name; the name of the unnamed vector is empty."""
    status: str = "green"
    """`green`, `yellow` (optimizing), `grey` (waits for a write to optimize) or `red` (failed)."""
    failure: str | None = None
    """Message of the optimizer if it failed."""
    queued: int = 0
    """Number of writes that are accepted but not applied yet."""
    sparse: Mapping[str, bool] = field(default_factory=dict)
    """Sparse vectors by name: True if the server weights them by IDF."""
    payload_indexes: Mapping[str, str] = field(default_factory=dict)
    """Types of the payload indexes by path, as `CollectionSettings.indexes` names them."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Values in force of the settings in `settings.CONFIGURED`; empty if the target has none."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """The index settings in force, which a load changes to defer indexing."""
    segments: int | None = None
    """Number of segments; None if the target does not say."""
    indexed: int | None = None
    """Indexed vectors of all names together. Segments without a graph count as indexed."""
    limits: Limits = field(default_factory=Limits)
    replicas: int = 1
    """Number of copies of each point that a cluster keeps."""

    @property
    def identity(self) -> str:
        """Random text that a loader stored when it created the collection; empty if there is none.

        A collection that is deleted and created again has another one.
        """
        record = self.metadata.get(METADATA_KEY)
        return str(record.get("identity") or "") if isinstance(record, dict) else ""

    @property
    def identities(self) -> frozenset[str]:
        """`identity`, and those of loaders that described the collection at the same time."""
        others = {
            name.removeprefix(IDENTITY_PREFIX)
            for name, given in self.metadata.items()
            if name.startswith(IDENTITY_PREFIX) and given
        }
        return frozenset({self.identity, *others} - {""})

    @property
    def unused(self) -> frozenset[str]:
        """Names of dense vectors that loaders leave alone; see `UNUSED_KEY`."""
        return frozenset(self.metadata.get(UNUSED_KEY) or ())

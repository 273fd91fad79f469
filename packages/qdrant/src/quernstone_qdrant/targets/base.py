"""What the loader, the searcher and everything else need of the place where points are kept.

Nothing here imports a client. `qdrant_client.models.Filter` is the filter language of every target;
one that speaks another language translates it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Rows

if TYPE_CHECKING:
    from qdrant_client.models import Filter

TargetKind = Literal["embedded", "server", "edge"]
Payload: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorState:
    """One dense vector of a collection, as it is."""

    size: int
    distance: str
    """`Cosine`, `Dot`, `Euclid` or `Manhattan`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """What a target says about its collection."""

    metadata: Mapping[str, Any]
    """Ours and other people's. Empty, too, where the server is too old to keep any."""
    points: int
    """About how many there are: a server's figure may be late. `Target.count` is exact."""
    vectors: Mapping[str, VectorState]
    """By name; the unnamed vector's name is empty."""
    status: str = "green"
    """`green`, `yellow` (optimising), `grey` (waits for a write to optimise) or `red` (failed)."""
    failure: str | None = None
    """What the optimiser said when it failed."""
    queued: int = 0
    """Writes that are accepted and not applied."""
    max_batch: int | None = None
    """Most points that the collection's strict mode takes at once; None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPoint:
    """A point as it was read back."""

    id: str
    payload: Payload = field(default_factory=dict)
    """Of the fields that were asked for, those that it has."""
    vectors: Mapping[str, Float32Array] = field(default_factory=dict)
    """By name, when they were asked for. Shape of each: (dimensions,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPoint:
    """A point that a query found."""

    id: str
    score: float
    """What it was ordered by: the nearness of `SearchRequest.vector`, or the sum of RRF."""
    payload: Payload
    vector: Float32Array | None = None
    """That of the name `SearchRequest.using`, as it is stored, when it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStage:
    """The first of two stages: the nearest short vectors."""

    using: str
    vector: Float32Array
    """Shape: (numbers of the short vector,)"""
    limit: int
    """Points that go on to the second stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Stage:
    """The second order of a hybrid search: points that share words with the query."""

    using: str
    """Name of the sparse vector, or path of the field that has a text index."""
    sparse: bool
    """Which of the two `using` is."""
    query: Bm25Text


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What to look for: the points nearest to `vector`, in full precision.

    With `prefix`, only among those that the first stage finds. With `bm25`, the two orders are
    fused by reciprocal ranks: a point's score is the sum of 1/(k + its place, from 0).
    """

    vector: Float32Array
    """Shape: (dimensions,)"""
    limit: int
    using: str = ""
    """Name of the vector to compare with."""
    where: Filter | None = None
    oversampling: float | None = None
    """What is searched first is quantised: find this many times as many points by the quantised
    numbers, and order them by the full ones. None: nothing is quantised."""
    prefix: PrefixStage | None = None
    bm25: Bm25Stage | None = None
    depth: int = 0
    """Hybrid: points of each of the two orders."""
    rrf_k: int = 60
    """Hybrid: how little the first places matter. 60 is of Cormack, Clarke and Büttcher, 2009."""
    with_vector: bool = False
    """Whether the found points' vector of the name `using` is wanted."""


def scroll_start(start: str | None) -> int | str | None:
    """The first id of a scroll as Qdrant wants it: other programs may number their points."""
    return int(start) if start is not None and start.isdecimal() else start


class Target(Protocol):
    """One collection, wherever it is.

    Every method raises a `TargetError` when it fails: a `TransientError` when the same request may
    succeed later, a `TooLargeError` when a smaller one may succeed, and any other when it will
    always fail. Nothing is retried in here: `retry.py` does that for every target.
    """

    @property
    def collection(self) -> str:
        """Name of the collection."""
        ...

    @property
    def kind(self) -> TargetKind:
        """What keeps the points."""
        ...

    @property
    def writers(self) -> int:
        """How many threads may use the target at once.

        1 means the thread that made it, and no other.
        """
        ...

    def exists(self) -> bool:
        """Whether the collection is there."""
        ...

    def state(self) -> CollectionState:
        """Read what the collection is.

        Raises:
            CollectionNotFoundError: It does not exist.
        """
        ...

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """Create the collection for embeddings of `dimensions` numbers."""
        ...

    def create_indexes(self, settings: CollectionSettings) -> None:
        """Create the payload indexes of the settings; what is there already stays."""
        ...

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Merge `metadata` into the collection's; an equal key at the top is replaced."""
        ...

    def payloads(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        """Read some payload fields of those of `ids` that exist, by id."""
        ...

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, Rows]
    ) -> None:
        """Write points, replacing those of the same ids. Returns when they are applied.

        Args:
            ids: Of the points.
            payloads: One per point.
            vectors: By name (empty: the unnamed vector), one row per point.

        Raises:
            TransientError: Also when the write was accepted and its end was not confirmed.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by id; ids that do not exist are no error. Returns when it is applied."""
        ...

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool = False,
        batch: int = 256,
        where: Filter | None = None,
        start: str | None = None,
    ) -> Iterator[StoredPoint]:
        """Read points, `batch` per request, in the order of their ids.

        Args:
            fields: Of the payload; None: all.
            with_vectors: Whether to read the dense vectors, too.
            batch: Most points per request.
            where: Which points; None: all.
            start: The first id to read; None: the very first.
        """
        ...

    def count(self) -> int:
        """Count the points, exactly."""
        ...

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """Name what of the settings this target does not have, for people to read."""
        ...

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[None]:
        """Put indexing off inside, and back at the end, whatever happens.

        After a crash the next load puts it back, also with `none`. Where nothing is indexed while
        data comes in, this does nothing.
        """
        ...

    def wait_for_index(self, timeout: float) -> None:
        """Return when what was written is indexed; at once where there is nothing to wait for.

        Args:
            timeout: In seconds; may be infinite.

        Raises:
            CollectionError: The optimiser failed; the error says why.
            TargetError: It takes longer.
        """
        ...

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """Find points, best first, with their whole payloads."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

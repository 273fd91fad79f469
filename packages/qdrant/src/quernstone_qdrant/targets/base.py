"""The `Target` protocol, through which the loader and the searcher reach a collection.

Nothing here imports a client at runtime. All targets take filters as `qdrant_client.models.Filter`;
a target with filters of its own translates them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import SparseVector
from quernstone_qdrant.settings import AnyVectorBatch, CollectionSettings, DeferIndex
from quernstone_qdrant.targets.requests import Feature, FoundPoint, SearchRequest
from quernstone_qdrant.targets.state import IDENTITY_PREFIX as IDENTITY_PREFIX
from quernstone_qdrant.targets.state import METADATA_KEY as METADATA_KEY
from quernstone_qdrant.targets.state import UNUSED_KEY as UNUSED_KEY
from quernstone_qdrant.targets.state import CollectionState as CollectionState
from quernstone_qdrant.targets.state import IndexConfig as IndexConfig
from quernstone_qdrant.targets.state import Limits as Limits
from quernstone_qdrant.targets.state import VectorState as VectorState

if TYPE_CHECKING:
    from qdrant_client.models import Filter

    from quernstone_qdrant.targets.schema import CollectionSchema

TargetKind = Literal["embedded", "server", "edge"]
Payload: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPoint:
    """A point read from a collection."""

    id: str
    payload: Payload = field(default_factory=dict)
    """Requested fields that the point has."""
    vectors: Mapping[str, Float32Array] = field(default_factory=dict)
    """Dense vectors by name, if requested. Shape of each: (dimensions,); of a multivector:
    (vectors, dimensions)"""
    sparse: Mapping[str, SparseVector] = field(default_factory=dict)
    """Sparse vectors by name, if requested."""


def native_id(point: str) -> int | str:
    """Convert an id: Qdrant takes the numeric ids of other programs as integers."""
    return int(point) if point.isdecimal() else point


def native_ids(points: Iterable[str]) -> list[Any]:
    """Convert the ids of several points."""
    return [native_id(point) for point in points]


class Target(Protocol):
    """One collection: embedded, on a server, or in Qdrant Edge.

    Every method raises a `TargetError` on failure: a `TransientError` if the same request may
    succeed later, a `TooLargeError` if a smaller one may succeed, and another `TargetError` if a
    retry cannot help. Targets do not retry; `retry.py` does so for all of them.
    """

    @property
    def collection(self) -> str:
        """Name of the collection."""
        ...

    @property
    def kind(self) -> TargetKind:
        """Kind of storage."""
        ...

    @property
    def writers(self) -> int:
        """Number of threads that may use the target at once; 1 means only its creator's thread."""
        ...

    @property
    def close_count(self) -> int:
        """Number of times the files were closed. Each time, they may have been exchanged.

        0 for a target without files.
        """
        ...

    def pinned(self) -> Target:
        """Return a target for the collection that the name stands for now.

        If the name is an alias, this is another target, which stays with its collection when the
        alias is switched. Otherwise it is this target.
        """
        ...

    def exists(self) -> bool:
        """Return True if the collection exists."""
        ...

    def state(self) -> CollectionState:
        """Read the state of the collection.

        Raises:
            CollectionNotFoundError: The collection does not exist.
        """
        ...

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """Create the collection for embeddings of `dimensions` numbers.

        Does nothing if it exists: another process may have created it first.
        """
        ...

    def schema(self) -> CollectionSchema:
        """Read the exact configuration of a collection that another program created."""
        ...

    def create_like(self, schema: CollectionSchema, metadata: Mapping[str, Any]) -> list[str]:
        """Create a collection like that of another program, unless it exists.

        Also creates the payload indexes that it lacks.

        Args:
            schema: The configuration of the other collection.
            metadata: Metadata of a new collection.

        Returns:
            The parts of the configuration that this target ignores, for messages to the user.

        Raises:
            CollectionError: This target cannot have a part, so nothing is created; the error names
                it.
        """
        ...

    def create_indexes(self, settings: CollectionSettings) -> list[str]:
        """Create the payload indexes of the settings that do not exist yet; return their paths."""
        ...

    def change(self, settings: CollectionSettings, dimensions: int, names: Collection[str]) -> None:
        """Change the existing collection in place, and add the vectors that it lacks.

        Args:
            settings: The new settings.
            dimensions: Size of the embeddings.
            names: Fields of `settings` that differ from the collection's, of `settings.IN_PLACE`.

        Raises:
            CollectionError: The server is too old for a value, or to add vectors.
        """
        ...

    def add_vector(self, settings: CollectionSettings, dimensions: int) -> None:
        """Add the full vector of these settings to a collection that has another one.

        No point has a value of it yet. Does nothing if the vector exists.

        Raises:
            CollectionError: The server is too old to add vectors.
        """
        ...

    def drop_vector(self, name: str, settings: CollectionSettings, dimensions: int) -> bool:
        """Delete a dense vector of all points. Does nothing if it does not exist.

        Also deletes the payload index that `update` created.

        Args:
            name: Its name.
            settings: Settings of the collection, which do not use this vector.
            dimensions: Size of the embeddings.

        Returns:
            False if its definition stays, without values: a server keeps that of an unnamed vector.
        """
        ...

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Update the collection's metadata: each top-level key of `metadata` is replaced."""
        ...

    def drop(self) -> None:
        """Delete the collection.

        Raises:
            TargetError: The name is an alias, or another process uses the collection.
        """
        ...

    def payloads(
        self, ids: Sequence[str], fields: Sequence[str], *, every_replica: bool = True
    ) -> dict[str, Payload]:
        """Return some payload fields of the points in `ids` that exist, by id.

        Args:
            ids: Ids of the points.
            fields: Payload fields to read.
            every_replica: Return only points that all replicas have, and raise a `ReplicaError`
                while one of them cannot be reached. False: ask one replica, which may lack points.
        """
        ...

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]
    ) -> None:
        """Write points, replacing any with equal ids. Return when the write is applied.

        Args:
            ids: Ids of the points.
            payloads: One payload per point.
            vectors: Vectors by name (empty: the unnamed vector), one row per point.

        Raises:
            TransientError: The write failed, or was accepted but not confirmed as applied.
        """
        ...

    def update(
        self,
        ids: Sequence[str],
        payloads: Sequence[Payload],
        vectors: Mapping[str, AnyVectorBatch],
        *,
        hashes: Sequence[str] = (),
    ) -> None:
        """Replace payload fields and vectors of existing points. Return when this is applied.

        Creates a payload index of the hashes if the strict mode of a server requires one.

        Args:
            ids: Ids of the points.
            payloads: Fields to replace, one mapping per point, which may be empty. The point's
                other fields stay.
            vectors: Named vectors, one row per point. Its other vectors stay.
            hashes: Content hashes of the points, as they were read. The vectors of a point whose
                hash has changed since then are not replaced. Empty: replace all.

        Raises:
            TargetError: A point does not exist, or the update failed.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points, ignoring ids that do not exist. Return when the deletion is applied."""
        ...

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool | list[str] = False,
        batch: int = 256,
        where: Filter | None = None,
        start: str | None = None,
        every_replica: bool = True,
    ) -> Iterator[StoredPoint]:
        """Yield points in the order of their ids.

        Args:
            fields: Payload fields to read; None: all.
            with_vectors: Also read the vectors: all of them, or those with these names.
            batch: Maximum number of points per request.
            where: Filter; None: all points.
            start: First id to read; None: start at the beginning.
            every_replica: See `payloads`.
        """
        ...

    def count(self) -> int:
        """Return the exact number of points."""
        ...

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """Describe the settings that this target ignores, for messages to the user."""
        ...

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[list[str]]:
        """Defer indexing inside the block and restore it at the end, also after an error.

        If several loads defer at once, the last one restores. What a crashed load left deferred is
        restored as well. Does nothing for a target that does not index during writes.

        Yields:
            Notes for the user, appended as they arise: where this deviates from the request.
        """
        ...

    def wait_for_index(
        self, timeout: float, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """Wait until all written points are indexed, if the target has an index.

        Args:
            timeout: Seconds to wait; may be infinite.
            progress: Called from time to time to describe the indexing that runs.

        Raises:
            CollectionError: The optimizer failed; the error says why.
            TargetError: The timeout expired.
        """
        ...

    def check_features(self, features: Collection[Feature]) -> None:
        """Check that this target can do what searches ask for.

        Raises:
            ConfigError: It cannot; the error says which target can.
        """
        ...

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """Return the points found, best first, with their full payloads.

        With groups, the points of each group follow each other, and no point occurs twice.
        """
        ...

    def query_many(self, requests: Sequence[SearchRequest]) -> list[list[FoundPoint]]:
        """Return the points found by each of several requests, which are sent as one.

        Args:
            requests: Requests without groups, with equal `consistency` and `timeout`.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...

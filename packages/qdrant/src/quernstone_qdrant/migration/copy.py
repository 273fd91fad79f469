"""Copy a collection between the embedded client, Edge and servers, without embedding anything."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from uuid import uuid4

import numpy as np

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.checks.indexes import indexed_paths
from quernstone_qdrant.documents import floats
from quernstone_qdrant.documents.bm25 import SparseVector
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.migration.joining import carried_metadata, joined
from quernstone_qdrant.provenance import Provenance, check_unchanged
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import BM25, IN_PLACE, CollectionSettings
from quernstone_qdrant.store import REQUEST_BYTES, PointStore
from quernstone_qdrant.targets import CollectionState, StoredPoint, Target

_BATCH = 256
_FLOAT32_ERROR, _FLOAT16_ERROR = 1e-6, 2.0**-10
"""Largest difference of two equal vectors, relative to their largest number. A target normalizes
vectors when it stores them, which changes their last bits, and may store them as float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """The figures of a copy, finished or still running.

    `points == copied + unchanged`.
    """

    points: int = 0
    """Points of the source that were read."""
    copied: int = 0
    """Points that were missing or different in the destination, and were written."""
    unchanged: int = 0
    """Points that the destination had already, with equal payload and vectors."""
    extra: int = 0
    """Points that only the destination has. They stay, unless deleting them is requested."""
    deleted: int = 0
    """Points of `extra` that were deleted."""
    retries: int = 0
    """Requests to either side that were retried."""
    ignored: tuple[str, ...] = ()
    """Collection settings that the destination does not support, such as `quantisation`."""
    notes: tuple[str, ...] = ()
    """Properties of the source that were not copied, in words."""
    seconds: float = 0.0


def copy_collection(
    source: Target,
    destination: Target,
    *,
    delete: bool = False,
    request_bytes: int = REQUEST_BYTES,
    patience: float = 300.0,
    progress: Callable[[CopyReport], None] = lambda _: None,
) -> CopyReport:
    """Copy the points, vectors, payload indexes and metadata of a collection.

    Both sides are read in the order of their ids, and only points that differ are written: a copy
    that was killed continues when it is started again, and a second copy writes nothing. Points
    written to the source while it is copied may be missed; copy again to get them. Loads into the
    copy continue where those into the source stopped, since ids and hashes stay the same.

    Args:
        source: A collection that `QdrantLoader` or `quern load` created.
        destination: Where to copy it to. If it exists, it must be a copy of the same collection.
        delete: Delete points that only the destination has.
        request_bytes: See `QdrantLoader`.
        patience: See `QdrantLoader`.
        progress: Called after each batch with the report so far.

    Raises:
        CollectionError: The source does not record its model, or the destination is another
            collection.
        ConfigError: Both are the same collection.
        CollectionReplacedError: Another collection took the destination's name meanwhile.
        TargetError: A request failed. What was written before remains; copy again to continue.
    """
    if source is destination:
        raise ConfigError(
            f"source and destination are both collection {source.collection!r}; name another place "
            "or another collection as the destination"
        )
    copy = _Copy(source, destination, Retry(patience), request_bytes, progress)
    return copy.run(delete=delete)


class _Copy:
    def __init__(
        self,
        source: Target,
        destination: Target,
        retry: Retry,
        request_bytes: int,
        progress: Callable[[CopyReport], None],
    ) -> None:
        self._name, self._named = source.collection, destination
        self._retry, self._progress = retry, progress
        pinned: Target = retry.call(source.pinned)
        self._destination: Target = retry.call(destination.pinned)
        self._started = time.monotonic()
        state = retry.call(pinned.state)
        recorded = Provenance.read(state)
        if recorded is None:
            raise CollectionError(
                source.collection,
                "nothing is recorded about the model that created it: only a collection created by "
                "`QdrantLoader` or `quern load` can be copied; for others, there is "
                "`QdrantClient.migrate`",
            )
        settings = recorded.settings
        self._names = {
            *settings.vectors(recorded.dimensions),
            *([BM25] if settings.bm25 == "sparse" else []),
        }
        self._tolerance = _FLOAT16_ERROR if settings.datatype == "float16" else _FLOAT32_ERROR
        self.report = CopyReport(
            ignored=tuple(destination.ignored(settings)),
            notes=tuple(self._left_out(state, settings)),
        )
        self._provenance = self._prepare(state, recorded)
        self._source = PointStore(pinned, settings, retry)
        self._copies = PointStore(self._destination, settings, retry, request_bytes=request_bytes)

    def run(self, *, delete: bool) -> CopyReport:
        """Copy all points; see `copy_collection`."""
        writers = self._destination.writers
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(writers)) if writers > 1 else None
            writes: deque[Future[None]] = deque()
            pairs = joined(
                self._source.scroll(None, with_vectors=True),
                self._copies.scroll(None, with_vectors=True),
            )
            while batch := list(islice(pairs, _BATCH)):
                read = [self._expected(one) for one, _ in batch if one is not None]
                stored = {other.id: other for _, other in batch if other is not None}
                extra = [other.id for one, other in batch if one is None and other is not None]
                missing = [one for one in read if not self._equal(one, stored.get(one.id))]
                if pool is None:
                    self._copies.copy(missing)
                else:
                    writes.append(pool.submit(self._copies.copy, missing))
                    if len(writes) > writers:
                        writes.popleft().result()
                if delete:
                    self._copies.delete(extra)
                self._count(
                    points=len(read),
                    copied=len(missing),
                    unchanged=len(read) - len(missing),
                    extra=len(extra),
                    deleted=len(extra) if delete else 0,
                )
                self._progress(self.report)
            for write in writes:
                write.result()
        self._retry.call(lambda: check_unchanged(self._named, self._destination, self._provenance))
        if self._destination.kind == "edge":  # it indexes only while this call waits
            self._destination.wait_for_index(math.inf)
        self._count()
        return self.report

    def _left_out(self, state: CollectionState, settings: CollectionSettings) -> Iterator[str]:
        """Describe what the source has beyond its settings."""
        known = indexed_paths(settings)
        for path, kind in state.payload_indexes.items():
            if path not in known:
                yield f"the payload index of `{path}` ({kind}) is not in the settings: not copied"
        for name in (*state.vectors, *state.sparse):
            if name not in self._names:
                yield f"the vectors `{name}` are not in the settings: not copied"

    def _prepare(self, state: CollectionState, source: Provenance) -> Provenance:
        """Create the destination, or check that it is a copy of the source."""
        target, retry = self._destination, self._retry
        if not retry.call(target.exists):
            metadata = {
                **carried_metadata(state),
                **replace(source, identity=uuid4().hex).metadata(),
            }
            retry.call(lambda: target.create(source.settings, source.dimensions, metadata))
        found = Provenance.read(retry.call(target.state))
        if found is None or found.namespace != source.namespace:
            raise CollectionError(
                target.collection,
                f"it exists, but it is not a copy of {self._name!r}: name another collection, or "
                "delete it first",
            )
        found.check(source, target.collection)
        fixed = [
            f"`{name}` is {theirs!r} instead of {ours!r}"
            for name, theirs, ours in source.settings.differences(found.settings)
            if name not in IN_PLACE
        ]
        if fixed:
            raise CollectionError(
                target.collection,
                f"its settings differ from those of {self._name!r}: {'; '.join(fixed)}; name "
                "another collection, or delete it first",
            )
        retry.call(lambda: target.create_indexes(source.settings))
        return found

    def _expected(self, point: StoredPoint) -> StoredPoint:
        """Return a point of the source without the vectors that are not copied."""
        vectors = {name: row for name, row in point.vectors.items() if name in self._names}
        sparse = {
            name: row for name, row in point.sparse.items() if name in self._names and row.indices
        }
        return replace(point, vectors=vectors, sparse=sparse)

    def _equal(self, one: StoredPoint, other: StoredPoint | None) -> bool:
        if other is None or not floats.equal(one.payload, other.payload):
            return False
        dense = {name: row for name, row in other.vectors.items() if name in self._names}
        sparse = {name: row for name, row in other.sparse.items() if row.indices}
        return (
            one.vectors.keys() == dense.keys()
            and one.sparse.keys() == sparse.keys()
            and all(self._near(row, dense[name]) for name, row in one.vectors.items())
            and all(_same_terms(row, sparse[name]) for name, row in one.sparse.items())
        )

    def _near(self, one: Float32Array, other: Float32Array) -> bool:
        if one.shape != other.shape:
            return False
        difference = np.abs(one - other).max(initial=0.0)
        return bool(difference <= self._tolerance * np.abs(one).max(initial=0.0))

    def _count(self, **increments: int) -> None:
        sums = {name: getattr(self.report, name) + n for name, n in increments.items()}
        self.report = replace(
            self.report,
            seconds=time.monotonic() - self._started,
            retries=self._retry.retries,
            **sums,
        )


def _same_terms(one: SparseVector, other: SparseVector) -> bool:
    terms = dict(zip(one.indices, one.values, strict=True))
    others = dict(zip(other.indices, other.values, strict=True))
    return terms.keys() == others.keys() and all(
        math.isclose(weight, others[term], rel_tol=_FLOAT32_ERROR) for term, weight in terms.items()
    )

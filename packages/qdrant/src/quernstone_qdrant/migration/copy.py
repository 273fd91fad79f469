"""Copy a collection between the embedded client, Edge and servers, without embedding anything."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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
from quernstone_qdrant.identity import check_unchanged
from quernstone_qdrant.migration.joining import carried_metadata, joined, point_key
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import BM25, IN_PLACE, CollectionSettings
from quernstone_qdrant.store import REQUEST_BYTES, PointStore
from quernstone_qdrant.targets import CollectionState, StoredPoint, Target

_BATCH = 256
_SAMPLE = 256
"""Points by which a copy of another program's collection is recognized."""
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
    """Points that the destination already had, with equal payload and vectors."""
    extra: int = 0
    """Points that only the destination has. They stay, unless deleting them is requested."""
    deleted: int = 0
    """Points of `extra` that were deleted."""
    compared: int = 0
    """Points of the source that were compared with the copy at the end."""
    different: int = 0
    """Points that differed in that comparison, or were missing: they were written to meanwhile, or
    the destination stores them in another way."""
    retries: int = 0
    """Requests to either side that were retried."""
    ignored: tuple[str, ...] = ()
    """Collection settings that the destination does not support, such as `quantization`, or
    payload indexes."""
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
    that was killed continues when it is started again, and a second copy writes nothing. If points
    were written, both sides are compared at the end. Points written to the source while it is
    copied may be missed; copy again to get them. Loads into the copy continue where those into the
    source stopped, since ids and hashes stay the same.

    A collection that another program created is copied as it is, with all its vectors, payload
    indexes and metadata, so that this program can use the copy. Settings of optimizers, write-ahead
    log, strict mode, shards and replicas are those of the destination, and `notes` names each that
    differs.

    Args:
        source: The collection to copy.
        destination: Where to copy it to. If it exists, it must be a copy of the same collection: of
            another program's collection, most of its first points must be those of the source.
        delete: Delete points that only the destination has.
        request_bytes: See `QdrantLoader`.
        patience: See `QdrantLoader`.
        progress: Called after each batch with the report so far.

    Raises:
        CollectionError: The destination is another collection, or cannot have a vector, a payload
            index or the metadata of the source. Nothing is written.
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
        settings = CollectionSettings() if recorded is None else recorded.settings
        self._tolerance = {
            name: _FLOAT16_ERROR if vector.datatype == "float16" else _FLOAT32_ERROR
            for name, vector in state.vectors.items()
        }
        self._source = PointStore(pinned, settings, retry)
        self._copies = PointStore(self._destination, settings, retry, request_bytes=request_bytes)
        self._provenance: Provenance | None = None
        if recorded is None:
            self._names = {*state.vectors, *state.sparse}
            ignored = tuple(self._prepare_like(pinned, state))
            notes = tuple(self._changed_settings(pinned))
            self.report = CopyReport(ignored=ignored, notes=notes)
            return
        self._names = {
            *settings.vectors(recorded.dimensions),
            *([BM25] if settings.bm25 == "sparse" else []),
        }
        self._provenance = self._prepare(state, recorded)
        self.report = CopyReport(
            ignored=tuple(destination.ignored(settings)),
            notes=(*self._left_out(state, settings), *self._changed_settings(pinned)),
        )

    def run(self, *, delete: bool) -> CopyReport:
        """Copy all points; see `copy_collection`."""
        writers = self._destination.writers
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(writers)) if writers > 1 else None
            writes: deque[Future[None]] = deque()
            pairs = self._pairs()
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
        if self.report.copied or self.report.deleted:
            self._compare()
        else:  # they were compared just now
            self._count(compared=self.report.points)
        self._retry.call(lambda: check_unchanged(self._named, self._destination, self._provenance))
        if self._destination.kind == "edge":  # it indexes only while this call waits
            self._destination.wait_for_index(math.inf)
        self._count()
        return self.report

    def _pairs(self) -> Iterator[tuple[StoredPoint | None, StoredPoint | None]]:
        """Yield the points of both sides by id, with all their vectors."""
        return joined(
            self._source.scroll(None, with_vectors=True),
            self._copies.scroll(None, with_vectors=True),
        )

    def _compare(self) -> None:
        pairs = self._pairs()
        while batch := list(islice(pairs, _BATCH)):
            read = [(self._expected(one), other) for one, other in batch if one is not None]
            different = sum(not self._equal(one, other) for one, other in read)
            self._count(compared=len(read), different=different)
            self._progress(self.report)

    def _left_out(self, state: CollectionState, settings: CollectionSettings) -> Iterator[str]:
        """Describe the vectors and indexes of the source that are not in its settings."""
        known = indexed_paths(settings)
        for path, kind in state.payload_indexes.items():
            if path not in known:
                yield f"the payload index of `{path}` ({kind}) is not in the settings: not copied"
        for name in (*state.vectors, *state.sparse):
            if name in state.unused:
                label = f"vectors `{name}`" if name else "unnamed vectors"
                yield f"the {label} of a migration in place are not copied"
            elif name not in self._names:
                yield f"the vectors `{name}` are not in the settings: not copied"

    def _changed_settings(self, source: Target) -> Iterator[str]:
        """Describe the settings of a server that differ in the copy."""
        if source.kind != "server":
            return
        if self._destination.kind != "server":
            yield (
                "the server's settings of optimizers, write-ahead log, strict mode, shards and "
                "replicas are not copied"
            )
            return
        ours = self._retry.call(source.schema).reported
        theirs = self._retry.call(self._destination.schema).reported
        changed = [
            f"`{path}` is {theirs.get(path, 'not set')} instead of {ours.get(path, 'not set')}"
            for path in sorted(ours.keys() | theirs.keys())
            if ours.get(path) != theirs.get(path) and self._is_copied(path)
        ]
        if changed:
            yield (
                f"settings of the source that are not copied: {'; '.join(changed)}. Most of them "
                "can be set by `QdrantClient.update_collection`"
            )

    def _is_copied(self, path: str) -> bool:
        """Return False for a setting of a vector that is not copied, which has a note already."""
        for kind in ("params.vectors.", "params.sparse_vectors."):
            if path.startswith(kind):
                rest = path.removeprefix(kind)
                return any(rest.startswith(f"{name}.") or rest == name for name in self._names)
        return True

    def _prepare_like(self, source: Target, state: CollectionState) -> list[str]:
        """Create the destination of another program's collection, or check that it is a copy.

        Returns:
            What the destination ignores.
        """
        target, retry = self._destination, self._retry
        schema = retry.call(source.schema)
        if retry.call(target.exists):
            found = retry.call(target.state)
            differences = ["it records a model"] if Provenance.read(found) is not None else []
            differences = differences or [*schema.differences(retry.call(target.schema))]
            if differences:
                raise CollectionError(
                    target.collection,
                    f"it exists, but it is not a copy of {self._name!r}: "
                    f"{'; '.join(differences)}; name another collection, or delete it first",
                )
            self._check_sample()
        metadata = carried_metadata(state)
        ignored: list[str] = retry.call(lambda: target.create_like(schema, metadata))
        return ignored

    def _check_sample(self) -> None:
        """Raise an error unless most of the first points of the destination are the source's."""
        first = list(islice(self._copies.scroll(None, with_vectors=True), _SAMPLE))
        stored = {point.id: point for point in first}
        same = 0
        for one in self._source.scroll(None, with_vectors=True) if first else ():
            same += self._equal(self._expected(one), stored.get(one.id))
            if point_key(one) >= point_key(first[-1]):
                break
        if 2 * same < len(first):
            raise CollectionError(
                self._destination.collection,
                f"it exists, but it is not a copy of {self._name!r}: of its first {len(first)} "
                f"points, {same} are the same; name another collection, or delete it first",
            )

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
        sparse = {name: row for name, row in point.sparse.items() if name in self._names}
        return replace(point, vectors=vectors, sparse=sparse)

    def _equal(self, one: StoredPoint, other: StoredPoint | None) -> bool:
        if other is None or not floats.equal(one.payload, other.payload):
            return False
        dense = {name: row for name, row in other.vectors.items() if name in self._names}
        wanted, sparse = _with_terms(one.sparse), _with_terms(other.sparse)
        return (
            one.vectors.keys() == dense.keys()
            and wanted.keys() == sparse.keys()
            and all(self._near(name, row, dense[name]) for name, row in one.vectors.items())
            and all(_same_terms(row, sparse[name]) for name, row in wanted.items())
        )

    def _near(self, name: str, one: Float32Array, other: Float32Array) -> bool:
        if one.shape != other.shape:
            return False
        difference = np.abs(one - other).max(initial=0.0)
        return bool(difference <= self._tolerance[name] * np.abs(one).max(initial=0.0))

    def _count(self, **increments: int) -> None:
        sums = {name: getattr(self.report, name) + n for name, n in increments.items()}
        self.report = replace(
            self.report,
            seconds=time.monotonic() - self._started,
            retries=self._retry.retries,
            **sums,
        )


def _with_terms(vectors: Mapping[str, SparseVector]) -> dict[str, SparseVector]:
    """Leave out empty vectors, which a target may drop."""
    return {name: row for name, row in vectors.items() if row.indices}


def _same_terms(one: SparseVector, other: SparseVector) -> bool:
    terms = dict(zip(one.indices, one.values, strict=True))
    others = dict(zip(other.indices, other.values, strict=True))
    return terms.keys() == others.keys() and all(
        math.isclose(weight, others[term], rel_tol=_FLOAT32_ERROR) for term, weight in terms.items()
    )

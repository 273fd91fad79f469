"""Passes of a migration: read both collections, and apply the differences to the new one."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.documents.bm25 import SparseVector, encode_document
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.migration.contents import Contents, Rebuilt, Unreadable
from quernstone_qdrant.migration.counts import PassCounts
from quernstone_qdrant.migration.embedding import embed_all
from quernstone_qdrant.migration.joining import aligned, id_bytes, joined, point_key
from quernstone_qdrant.migration.record import (
    ABSENT,
    Journal,
    RecordWriter,
    Row,
    new_digest,
    old_digest,
    read_record,
)
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.store import REQUEST_BYTES, PointStore
from quernstone_qdrant.targets import StoredPoint, Target


class Passes:
    """The passes over both collections, in the order of their ids.

    Args:
        old: The old collection.
        new: The new collection.
        provenance: Provenance of the new collection.
        old_vector: Name of the old collection's dense vector.
        contents: Rebuilds the points.
        embedder: Embedder of the new collection; None: compare only.
        retry: Policy for failed requests.
        batch_size: Points per embedding call.
        request_bytes: See `QdrantLoader`.
        progress: Called after each batch.
    """

    def __init__(
        self,
        old: Target,
        new: Target,
        provenance: Provenance,
        old_vector: str,
        contents: Contents,
        embedder: TextEmbedder | None,
        retry: Retry,
        *,
        batch_size: int,
        request_bytes: int = REQUEST_BYTES,
        progress: Callable[[PassCounts], None] = lambda _: None,
    ) -> None:
        settings = provenance.settings
        self._settings, self._layout = settings, settings.payloads
        self._old_vector, self._contents, self._embedder = old_vector, contents, embedder
        self._old = PointStore(old, settings, retry)
        self._new = PointStore(new, settings, retry, request_bytes=request_bytes)
        self._writers, self._size, self._progress = new.writers, batch_size, progress
        self._name, self._counts = new.collection, PassCounts()

    def fill(self, record: RecordWriter, sample: Sample) -> PassCounts:
        """Write what the new collection lacks, and delete what only it has.

        Args:
            record: Receives every point of the old collection.
            sample: Receives every point of the new collection, and keeps some of them.
        """
        counts = self._counts = PassCounts()
        pairs = joined(self._read_old(), self._new.scroll(None))
        with self._writing() as write:
            while batch := list(islice(pairs, self._size)):
                wanted: dict[str, Rebuilt] = {}
                extra: list[str] = []
                todo: list[tuple[Rebuilt, StoredPoint]] = []
                for one, other in batch:
                    made = None if one is None else self._rebuild(one)
                    if one is None or made is None:
                        extra += [other.id] if other is not None else []
                        continue
                    wanted[one.id] = made
                    if other is None or not self._equal(other, made):
                        todo.append((made, one))
                    else:
                        counts.unchanged += 1
                points, failed = self._vectors(todo)
                # A point that cannot be embedded must not keep the vector of its older text.
                extra += [o.id for _, o in batch if o is not None and o.id in failed]
                write(points, extra)
                for one, _ in batch:
                    if one is None:
                        continue
                    counts.points += 1
                    made = None if one.id in failed else wanted.get(one.id)
                    record.add(one, None if made is None else made.payload)
                    if made is not None:
                        sample.draw(made)
                self._progress(counts)
        return counts

    def late(self, record: Path, *, apply: bool) -> PassCounts:
        """Apply what changed in the old collection since the record was written.

        A point that another program changed in the new collection since then stays as it is.

        Args:
            record: Path of the record.
            apply: False: count what is outstanding, without writing or embedding.
        """
        counts = self._counts = PassCounts()
        journal = Journal(record)
        try:
            changes = self._late_changes(record, journal)
            with self._writing() as write:
                while batch := list(islice(changes, self._size)):
                    todo = [(made, one) for _, made, one in batch if made is not None]
                    extra = [point for point, made, _ in batch if made is None]
                    if not apply:
                        counts.embedded += len(todo)
                        counts.deleted += len(extra)
                        continue
                    points, failed = self._vectors(todo)
                    extra += failed
                    journal.add(
                        {id_bytes(point.id): new_digest(point.payload) for point in points}
                        | {id_bytes(point): ABSENT for point in extra}
                    )
                    write(points, extra)
                    self._progress(counts)
        finally:
            journal.close()
        return counts

    def differences(self) -> int:
        """Return the number of points in which the new collection differs from the old one."""
        self._counts = PassCounts()
        count = 0
        for one, other in joined(self._old.scroll(None), self._new.scroll(None)):
            made = None if one is None else self._rebuild(one)
            if made is not None and other is not None:
                count += not self._equal(other, made)
            else:
                count += made is not None or other is not None
        return count

    def _late_changes(
        self, record: Path, journal: Journal
    ) -> Iterator[tuple[str, Rebuilt | None, Any]]:
        """Yield what to write to the new collection, or to delete from it (None)."""
        streams = aligned(
            (read_record(record), lambda row: row.id),
            (self._read_old(), point_key),
            (self._new.scroll(None), point_key),
        )
        for key, (row, one, other) in streams:
            self._counts.points += one is not None
            recorded: Row = row or Row(key, ABSENT, ABSENT)
            is_same = recorded.old == (ABSENT if one is None else old_digest(one))
            if is_same and not journal.knows(key):
                self._counts.unchanged += one is not None
                continue
            made = None if one is None else self._rebuild(one)
            if (made is None and other is None) or (
                made is not None and other is not None and self._equal(other, made)
            ):
                continue
            digest = new_digest(None if made is None else made.payload)
            if digest == journal.last(key) and new_digest(_payload(other)) != journal.before(
                key, recorded.new
            ):
                continue  # it was applied, and another program changed it afterwards
            if new_digest(_payload(other)) not in journal.expected(key, recorded.new):
                self._counts.conflicts += 1
                continue
            point = one if one is not None else other
            yield point.id, made, one

    def _read_old(self) -> Iterator[StoredPoint]:
        vectors: bool | list[str] = False
        if self._contents.reuses_vectors:
            vectors = [self._old_vector] if self._old_vector else True
        return self._old.scroll(None, with_vectors=vectors)

    def _rebuild(self, point: StoredPoint) -> Rebuilt | None:
        try:
            made = self._contents.rebuild(point)
        except Unreadable as error:
            self._counts.problem(point.id, str(error))
            return None
        self._counts.changed += made.changed
        return made

    def _equal(self, stored: StoredPoint, wanted: Rebuilt) -> bool:
        """Compare the payloads: a point's payload and vectors are written together."""
        return stored.payload.keys() == wanted.payload.keys() and all(
            self._layout.equal(name, stored.payload[name], value)
            for name, value in wanted.payload.items()
        )

    def _vectors(
        self, todo: Sequence[tuple[Rebuilt, StoredPoint]]
    ) -> tuple[list[StoredPoint], list[str]]:
        """Return points to write, and the ids of those that cannot be embedded."""
        counts, kept, rows = self._counts, [], []
        fresh = []
        for made, one in todo:
            vector = one.vectors.get(self._old_vector) if made.reuses_vector else None
            if vector is None:
                fresh.append(made)
            else:
                kept.append(made)
                rows.append(unit_prefix(vector, vector.size))
        counts.reused += len(kept)
        fresh, fresh_rows, failed = embed_all(fresh, self._embedder, counts, self._name)
        rows += fresh_rows
        kept += fresh
        if not kept:
            return [], failed
        return list(self._points(kept, np.stack(rows))), failed

    def _points(self, made: Sequence[Rebuilt], embeddings: Float32Array) -> Iterator[StoredPoint]:
        rows = self._settings.vectors_to_write(embeddings, [one.text for one in made])
        for place, one in enumerate(made):
            dense: dict[str, Float32Array] = {}
            sparse: dict[str, SparseVector] = {}
            for name, matrix in rows.items():
                if isinstance(matrix, np.ndarray):
                    dense[name] = matrix[place]
                else:
                    sparse[name] = encode_document(matrix[place])
            yield StoredPoint(id=one.id, payload=one.payload, vectors=dense, sparse=sparse)

    @contextmanager
    def _writing(self) -> Iterator[Callable[[list[StoredPoint], list[str]], None]]:
        """Yield a function that writes and deletes, on other threads if the target allows it.

        All writes are confirmed at the end of the block.
        """
        writes: deque[Future[None]] = deque()

        def apply(points: list[StoredPoint], extra: list[str]) -> None:
            self._new.copy(points)
            self._new.delete(extra)

        def run(points: list[StoredPoint], extra: list[str]) -> None:
            self._counts.deleted += len(extra)
            if self._writers == 1:
                apply(points, extra)
                return
            writes.append(pool.submit(apply, points, extra))
            if len(writes) > self._writers:
                writes.popleft().result()

        with ThreadPoolExecutor(self._writers) as pool:
            yield run
            for write in writes:
                write.result()


def _payload(point: StoredPoint | None) -> dict[str, Any] | None:
    return None if point is None else point.payload


class Sample:
    """A random sample of points, each drawn with the same probability (reservoir sampling)."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._rng, self._seen = size, random.Random(seed), 0
        self.points: list[Rebuilt] = []

    def draw(self, point: Rebuilt) -> None:
        """Offer one more point."""
        self._seen += 1
        place = len(self.points)
        if place >= self._size:
            place = self._rng.randrange(self._seen)
        if place < self._size:
            self.points[place : place + 1] = [replace(point, payload={})]

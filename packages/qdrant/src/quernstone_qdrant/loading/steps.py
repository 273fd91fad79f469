"""What happens to one batch of chunks: looked up, embedded, written.

`run.py` does it in threads of one process, `ray.py` on many machines.
"""

from __future__ import annotations

from uuid import UUID

import numpy as np

from quernstone.errors import EngineError, EngineMemoryError, InputError, NonFiniteError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point, point_id, stored_hash
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.provenance import TextEmbedder
from quernstone_qdrant.store import PointStore

_PROBE = 64
"""Ids that are looked for at a time behind the end of a document that got shorter."""


def look_up(batch: Batch, store: PointStore, namespace: UUID) -> None:
    """Keep the points that are missing or different, and find those that nobody needs."""
    behind = [(point_id(namespace, key, n), key, n) for key, n in batch.ends]
    ids = [point.id for point in batch.points] + [found for found, _, _ in behind]
    there = store.payloads(ids)
    batch.points = [
        point for point in batch.points if stored_hash(there.get(point.id)) != point.content_hash
    ]
    batch.skipped = batch.chunks - len(batch.points)
    for found, key, number in behind:
        if found in there:
            batch.stale.extend(_behind(store, namespace, key, number))


def _behind(store: PointStore, namespace: UUID, key: str, number: int) -> list[str]:
    """Ids of the points of `key` from chunk `number` on."""
    stale: list[str] = []
    while True:
        ids = [point_id(namespace, key, number + i) for i in range(_PROBE)]
        there = store.payloads(ids)
        stale.extend(found for found in ids if found in there)
        if ids[-1] not in there:
            return stale[::-1]  # a crash between two deletes then leaves no gap behind it
        number += _PROBE


def embed(batch: Batch, embedder: TextEmbedder, *, skip_errors: bool) -> None:
    """Set the vectors, and take out the points that have none: they are the batch's failures."""
    points = batch.points
    while True:
        try:
            vectors = embedder.embed_documents([point.text for point in points])
            batch.vectors = _checked(vectors, len(points), embedder.dimensions)
        except (InputError, EngineMemoryError, NonFiniteError) as error:  # noqa: PERF203
            if error.index is None:
                raise
            batch.failures.append(_failure(points[error.index], error))
            if skip_errors:
                del points[error.index]
            else:  # what comes before it is written, and nothing that comes after it
                batch.lost = True
                del points[error.index :]
        else:
            return


def _checked(vectors: Float32Array, count: int, dimensions: int) -> Float32Array:
    """Refuse what no target can store; an embedder that is not ours may give anything."""
    if vectors.shape != (count, dimensions):
        raise EngineError(
            f"the embedder gave an array of shape {vectors.shape} for {count} texts; it must be "
            f"({count}, {dimensions})"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise NonFiniteError(int(bad[0]), "and nothing else can be asked of this embedder")
    return vectors


def write(batch: Batch, store: PointStore) -> None:
    """Store the points and delete the stale ones. Returns when that is confirmed."""
    if batch.points and batch.vectors is not None:
        store.write(batch.points, batch.vectors)
    if not batch.lost:
        store.delete(batch.stale)


def _failure(point: Point, error: InputError | EngineMemoryError | NonFiniteError) -> Failure:
    why = str(error).removeprefix(f"input {error.index}").lstrip(": ")
    chunk = point.chunk
    named = RecordError(chunk.record.key, f"chunk {chunk.number} cannot be embedded: {why}")
    named.__cause__ = error
    return Failure(named, chunk.record)

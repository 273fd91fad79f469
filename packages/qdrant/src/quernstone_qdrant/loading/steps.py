"""The steps that process one batch of chunks: look up, embed, write.

`run.py` runs them on threads of one process, `ray.py` on many machines.
"""

from __future__ import annotations

from uuid import UUID

import numpy as np

from quernstone.errors import EngineError, EngineMemoryError, InputError, NonFiniteError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point, has_node_of, is_stored, point_id
from quernstone_qdrant.embedders import TextEmbedder, is_normalized
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.loading.source_guard import SourceGuard
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.writes import Refusal

_PROBE = 64
"""Number of ids per lookup when searching for points past the end of a shorter document."""


def look_up(
    batch: Batch, store: PointStore, namespace: UUID, guard: SourceGuard | None = None
) -> None:
    """Keep only points that are missing, changed or unconfirmed; set `stale` and `refreshed`.

    A point is unconfirmed while one of its replicas cannot be reached. Stale points are those past
    the end of a document that became shorter. `guard` protects documents of other sources.
    """
    ends = [(point_id(namespace, key, chunks), key, chunks) for key, chunks in batch.ends]
    ids = [point.id for point in batch.points] + [end_id for end_id, _, _ in ends]
    stored, confirmed = store.look_up(ids + (guard.extra_ids(batch) if guard else []))
    if guard is not None:
        guard.check(batch, stored)
        ends = [end for end in ends if end[1] not in batch.refused]
    kept = len(batch.points)
    changed = [point for point in batch.points if not is_stored(point, stored.get(point.id))]
    if confirmed:
        new = {point.id for point in changed}
        batch.refreshed = [
            point
            for point in batch.points
            if point.id not in new and not has_node_of(point, stored[point.id])
        ]
        batch.points = changed
    else:
        batch.unconfirmed = len(batch.points) - len(changed)
    batch.skipped = kept - len(batch.points)
    for end_id, key, chunks in ends:
        if end_id in stored:
            stale = _stale_ids(store, namespace, key, chunks)
            batch.stale += stale
            batch.stale_keys += [key] * len(stale)


def _stale_ids(store: PointStore, namespace: UUID, key: str, first: int) -> list[str]:
    """Return the ids of the stored points of `key` from chunk `first` on, last chunk first."""
    stale: list[str] = []
    while True:
        ids = [point_id(namespace, key, first + i) for i in range(_PROBE)]
        stored, _ = store.look_up(ids)
        stale.extend(found for found in ids if found in stored)
        if ids[-1] not in stored:
            # Deleted from the end, so that a crash between two deletes does not leave a gap.
            return stale[::-1]
        first += _PROBE


def embed(batch: Batch, embedder: TextEmbedder, *, skip_errors: bool) -> None:
    """Set the vectors; move points that cannot be embedded from `points` to `failures`."""
    points = batch.points
    while True:
        places = [i for i, point in enumerate(points) if point.chunk.record.vector is None]
        try:
            vectors = _embedded([points[i].text for i in places], embedder)
        except (InputError, EngineMemoryError, NonFiniteError) as error:
            if error.index is None:
                raise
            place = places[error.index]
            batch.failures.append(_failure(points[place], error))
            if skip_errors:
                del points[place]
            else:  # only the points before this one are written
                batch.lost = True
                del points[place:]
        else:
            batch.vectors = vectors
            if len(places) < len(points):
                embedded = iter(vectors)
                given = (point.chunk.record.vector for point in points)
                batch.vectors = np.stack([next(embedded) if v is None else v for v in given])
            return


def _embedded(texts: list[str], embedder: TextEmbedder) -> Float32Array:
    if not texts:  # does not load the model
        return np.empty((0, embedder.dimensions), np.float32)
    vectors = validated(embedder.embed_documents(texts), len(texts), embedder.dimensions)
    # Collections compare vectors by cosine, so they store unit vectors.
    return vectors if is_normalized(embedder) else unit_prefix(vectors, embedder.dimensions)


def validated(vectors: Float32Array, count: int, dimensions: int) -> Float32Array:
    """Return `vectors` if a target can store them: other libraries may return anything.

    Raises:
        EngineError: The shape is not (count, dimensions).
        NonFiniteError: A vector has NaN or infinity.
    """
    if vectors.shape != (count, dimensions):
        raise EngineError(
            f"the embedder returned an array of shape {vectors.shape} for {count} texts; it must "
            f"be ({count}, {dimensions}): check its `embed_documents` and `dimensions`"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise NonFiniteError(int(bad[0]), "and this embedder cannot recompute it")
    return vectors


def write(batch: Batch, store: PointStore, *, skip_errors: bool) -> None:
    """Store the points, delete the stale ones, and return once both are confirmed.

    With `skip_errors`, points that the target refuses move from `points` to `failures`.
    """
    if batch.previous is not None and batch.previous.refused:
        batch.refuse(batch.previous.refused)
    if batch.points and batch.vectors is not None:
        refused = store.write(batch.points, batch.vectors, skip_refused=skip_errors)
        if refused:
            left_out = {refusal.point.id for refusal in refused}
            batch.points = [point for point in batch.points if point.id not in left_out]
            batch.failures.extend(_not_stored(refusal) for refusal in refused)
    store.refresh(batch.refreshed)
    if not batch.lost:
        store.delete(batch.stale)


def _not_stored(refusal: Refusal[Point]) -> Failure:
    chunk = refusal.point.chunk
    error = RecordError(chunk.record.key, f"chunk {chunk.number} is refused: {refusal.reason}")
    error.__cause__ = refusal.error
    return Failure(error, chunk.record)


def _failure(point: Point, error: InputError | EngineMemoryError | NonFiniteError) -> Failure:
    reason = str(error).removeprefix(f"input {error.index}").lstrip(": ")
    chunk = point.chunk
    record_error = RecordError(
        chunk.record.key, f"chunk {chunk.number} cannot be embedded: {reason}"
    )
    record_error.__cause__ = error
    return Failure(record_error, chunk.record)

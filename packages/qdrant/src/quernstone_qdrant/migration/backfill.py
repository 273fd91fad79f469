"""Backfill the vector of another model in a collection that programs write to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from qdrant_client.models import Filter, HasVectorCondition

from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import stored_hash
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.errors import TargetError, WriteError
from quernstone_qdrant.migration.counts import PassCounts
from quernstone_qdrant.migration.embedding import embed_all
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import StoredPoint, Target

_MOST_TRIED = 10
"""Points of which one is updated on trial: another program may delete some meanwhile."""
_NO_HASH = "-"
"""Stands for a content hash that no point has."""


def try_update(target: Target, vector: str, retry: Retry) -> None:
    """Make an update like those of `Backfill` that changes nothing.

    Args:
        target: A collection on a server.
        vector: Name of a vector that its points have.
        retry: Policy for failed requests.

    Raises:
        TargetError: The server refuses it, for example because strict mode requires a payload index
            and limits their number.
    """
    points = retry.call(
        lambda: list(islice(target.scroll([], with_vectors=True, batch=2), _MOST_TRIED))
    )
    for point in points:
        if vector not in point.vectors:
            continue
        rows = {vector: point.vectors[vector][np.newaxis]}
        try:
            retry.call(partial(target.update, [point.id], [{}], rows, hashes=[_NO_HASH]))
        except TargetError:
            if point.id in retry.call(partial(target.payloads, [point.id], [OWN_KEY])):
                raise
        else:
            return


@dataclass(frozen=True, slots=True)
class PendingPoint:
    """A point that lacks the vector, as it was read."""

    id: str
    text: str
    """Text to embed."""
    hash: str
    """Content hash; the vector is written only while the point still has it."""


class Backfill:
    """A backfill, which finds the points that lack a vector and writes it.

    A vector is only written to a point whose content hash is still that of the embedded text. A
    program that replaces a point meanwhile writes it without the vector, so the next pass finds it.

    Args:
        target: The collection.
        provenance: The model of the vector; its settings name it.
        embedder: Embedder of this model; None: only count.
        retry: Policy for failed requests.
        batch_size: Points per embedding call.
        request_bytes: See `QdrantLoader`.
        progress: Called after each batch.
    """

    def __init__(
        self,
        target: Target,
        provenance: Provenance,
        embedder: TextEmbedder | None,
        retry: Retry,
        *,
        batch_size: int,
        request_bytes: int,
        progress: Callable[[PassCounts], None] = lambda _: None,
    ) -> None:
        self._settings, self._layout = provenance.settings, provenance.settings.payloads
        self._vector, self._name = provenance.settings.vector, target.collection
        self._embedder, self._size, self._progress = embedder, batch_size, progress
        self._store = PointStore(target, self._settings, retry, request_bytes=request_bytes)

    def missing(self) -> int:
        """Return the number of points that lack the vector."""
        # Not `count`, which asks one replica: old vectors are deleted if nothing is missing.
        return sum(1 for _ in self._store.scroll([], where=self._lacking))

    def fill(self) -> PassCounts:
        """Embed the texts of all points without the vector, and write the vectors."""
        counts = PassCounts()
        points = self._store.scroll(None, where=self._lacking)
        while batch := list(islice(points, self._size)):
            counts.points += len(batch)
            todo = list(self.texts(batch, counts))
            kept, rows, _ = embed_all(todo, self._embedder, counts, self._name)
            if kept:
                self._write(kept, self._settings.encode(np.stack(rows)))
            self._progress(counts)
        return counts

    def texts(self, points: Sequence[StoredPoint], counts: PassCounts) -> Iterator[PendingPoint]:
        """Yield the points with their texts; count as problems those without."""
        for point in points:
            if not isinstance(point.payload.get(OWN_KEY), dict):
                counts.problem(point.id, "another program wrote it, so it has no content hash")
                continue
            known = stored_hash(point.payload)
            if not known:
                counts.problem(point.id, "its content hash was cleared: load its document again")
                continue
            try:
                text = self._layout.read(point.payload).embedded
            except (LookupError, TypeError, ValueError) as error:
                counts.problem(point.id, f"its payload cannot be read: {error}")
                continue
            yield PendingPoint(point.id, text, known)

    @property
    def _lacking(self) -> Filter:
        return Filter(must_not=[HasVectorCondition(has_vector=self._vector)])

    def _write(self, points: Sequence[PendingPoint], rows: Float32Array) -> None:
        """Write vectors, except to points that were changed or deleted meanwhile."""
        left = list(range(len(points)))
        while left:
            ids = [points[i].id for i in left]
            hashes = [points[i].hash for i in left]
            vectors = {self._vector: rows[left]}
            try:
                self._store.update(ids, [{}] * len(ids), vectors, hashes=hashes)
            except WriteError:
                # A request about a deleted point is refused.
                living = self._store.payloads(ids)
                remaining = [i for i in left if points[i].id in living]
                if len(remaining) == len(left):
                    raise
                left = remaining
            else:
                return

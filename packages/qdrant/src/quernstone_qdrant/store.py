"""Requests of the right size, made until the target has confirmed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
import orjson

from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import Point, stored_hash
from quernstone_qdrant.errors import TargetError, TooLargeError, WriteError
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings, Rows
from quernstone_qdrant.targets.base import Payload, StoredPoint, Target

REQUEST_BYTES = 2 << 20
"""A hundred and more usual vectors. A server takes 32 MB at once (`max_request_size_mb`), but the
client holds each write several times over, as objects and as text, on each of its threads."""
_NUMBER_BYTES = 13
"""Of a float32 in JSON, with the comma; gRPC needs 4."""
_DELETED_AT_ONCE = 1024


class PointStore:
    """The points of one collection, read and written with patience. Thread-safe if the target is.

    Args:
        target: Where the points go.
        settings: What makes vectors of embeddings.
        retry: Decides how often a request is made.
        most_points: Per request; None: any number.
        request_bytes: Approximate size limit of a request; lowered when the server refuses one.
    """

    def __init__(
        self,
        target: Target,
        settings: CollectionSettings,
        retry: Retry,
        *,
        most_points: int | None = None,
        request_bytes: int = REQUEST_BYTES,
    ) -> None:
        self._target, self._settings, self._retry = target, settings, retry
        self._most_points = most_points
        self._request_bytes = request_bytes

    def payloads(self, ids: Sequence[str]) -> dict[str, Payload]:
        """Read what the loader stores in the payload, of those of `ids` that exist, by id.

        Raises:
            TargetError: It cannot be read.
        """
        return self._retry.call(lambda: self._target.payloads(ids, [OWN_KEY])) if ids else {}

    def scroll(self, fields: Sequence[str] | None, *, batch: int = 1000) -> Iterator[StoredPoint]:
        """Read some or all (None) fields of all points, in the order of their ids.

        Raises:
            TargetError: They cannot be read.
        """
        start: str | None = None
        while True:
            pages = partial(self._target.scroll, fields, batch=batch, start=start)
            page = self._retry.call(lambda pages=pages: list(islice(pages(), batch)))  # type: ignore[misc]
            yield from (point for point in page if point.id != start)
            if len(page) < batch:
                return
            start = page[-1].id

    def write(self, points: Sequence[Point], embeddings: Float32Array) -> None:
        """Write points; return when all are confirmed.

        Args:
            points: What to store.
            embeddings: Shape: (len(points), dimensions)

        Raises:
            WriteError: Some are not; the error names them.
        """
        rows = self._settings.rows(embeddings, [point.text for point in points])
        payloads = [point.payload() for point in points]
        sizes = _sizes(payloads, rows)
        for part in self._parts(sizes):
            self._send(points[part], payloads[part], _slice(rows, part), sizes[part])

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points in the order given; return when that is confirmed.

        Raises:
            WriteError: Some are not; the error names them.
        """
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            some = ids[start : start + _DELETED_AT_ONCE]
            try:
                self._retry.call(lambda some=some: self._target.delete(some))  # type: ignore[misc]
            except TargetError as error:
                raise WriteError(str(error), tuple(some)) from error

    def _parts(self, sizes: Sequence[int]) -> Iterator[slice]:
        start = total = 0
        for place, size in enumerate(sizes):
            full = self._most_points is not None and place - start >= self._most_points
            if place > start and (full or total + size > self._request_bytes):
                yield slice(start, place)
                start, total = place, 0
            total += size
        if start < len(sizes):
            yield slice(start, len(sizes))

    def _send(
        self,
        points: Sequence[Point],
        payloads: Sequence[Payload],
        rows: Mapping[str, Rows],
        sizes: Sequence[int],
    ) -> None:
        ids = tuple(point.id for point in points)
        try:
            self._retry.call(
                lambda: self._target.upsert(ids, payloads, rows),
                lambda: self._find(points) or None,
            )
        except TooLargeError as error:
            if len(points) == 1:
                chunk = points[0].chunk
                raise WriteError(
                    f"{error}; chunk {chunk.number} of record {chunk.record.key!r} alone is about "
                    f"{sizes[0]:,} bytes: split it, or shorten its metadata",
                    ids,
                ) from error
            self._request_bytes = min(self._request_bytes, max(1, sum(sizes) // 2))
            middle = len(points) // 2
            for part in (slice(0, middle), slice(middle, len(points))):
                self._send(points[part], payloads[part], _slice(rows, part), sizes[part])
        except TargetError as error:
            raise WriteError(str(error), ids) from error

    def _find(self, points: Sequence[Point]) -> bool:
        """Whether points are stored as they should be: the answer to a write may get lost."""
        there = self._target.payloads([point.id for point in points], [OWN_KEY])
        return all(stored_hash(there.get(point.id)) == point.content_hash for point in points)


def _sizes(payloads: Sequence[Payload], rows: Mapping[str, Rows]) -> list[int]:
    """About how many bytes each point is in a request."""
    numbers = sum(matrix.shape[1] for matrix in rows.values() if isinstance(matrix, np.ndarray))
    return [_NUMBER_BYTES * numbers + len(orjson.dumps(payload)) for payload in payloads]


def _slice(rows: Mapping[str, Rows], part: slice) -> dict[str, Rows]:
    return {name: matrix[part] for name, matrix in rows.items()}

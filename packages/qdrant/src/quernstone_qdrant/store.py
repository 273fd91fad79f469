"""Read and write points in requests of a suitable size, with retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
import orjson

from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.errors import TargetError, TooLargeError, WriteError
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings, Rows
from quernstone_qdrant.targets.base import Payload, StoredPoint, Target

REQUEST_BYTES = 2 << 20
"""A hundred or more typical vectors. A server accepts 32 MB (`max_request_size_mb`), but a client
holds several copies of a write, as objects and as text, on each thread."""
_NUMBER_BYTES = 13
"""Size of a float32 in JSON, with the comma; gRPC needs 4 bytes."""
_DELETE_BATCH = 1024


class PointStore:
    """The points of one collection, with retries. Thread-safe if the target is.

    Args:
        target: The collection.
        settings: Settings of the collection, which turn embeddings into vectors.
        retry: Policy for failed requests.
        max_points: Maximum number of points per request; None: no limit.
        request_bytes: Approximate size limit of a request; lowered when the server refuses one.
    """

    def __init__(
        self,
        target: Target,
        settings: CollectionSettings,
        retry: Retry,
        *,
        max_points: int | None = None,
        request_bytes: int = REQUEST_BYTES,
    ) -> None:
        self._target, self._settings, self._retry = target, settings, retry
        self._max_points = max_points
        self._request_bytes = request_bytes

    def payloads(self, ids: Sequence[str]) -> dict[str, Payload]:
        """Return the loader's own payload field of each existing point in `ids`, by id.

        Raises:
            TargetError: The points cannot be read.
        """
        return self._retry.call(lambda: self._target.payloads(ids, [OWN_KEY])) if ids else {}

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        batch: int = 1000,
        with_vectors: bool | Sequence[str] = False,
    ) -> Iterator[StoredPoint]:
        """Yield all points in the order of their ids; see `Target.scroll`.

        Raises:
            TargetError: The points cannot be read.
        """
        start: str | None = None
        while True:
            pages = partial(
                self._target.scroll, fields, batch=batch, with_vectors=with_vectors, start=start
            )
            page = self._retry.call(lambda pages=pages: list(islice(pages(), batch)))  # type: ignore[misc]
            yield from (point for point in page if point.id != start)
            if len(page) < batch:
                return
            start = page[-1].id

    def write(self, points: Sequence[Point], embeddings: Float32Array) -> None:
        """Write points, and return once all are confirmed.

        Args:
            points: The points to store.
            embeddings: Shape: (len(points), dimensions)

        Raises:
            WriteError: Some points are not confirmed; the error names them.
        """
        rows = self._settings.rows(embeddings, [point.text for point in points])
        payloads = [point.payload() for point in points]
        sizes = _sizes(payloads, rows)
        for part in self._parts(sizes):
            self._send(points[part], payloads[part], _slice(rows, part), sizes[part])

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points in the given order, and return once this is confirmed.

        Raises:
            WriteError: Some deletions are not confirmed; the error names the points.
        """
        for start in range(0, len(ids), _DELETE_BATCH):
            batch = ids[start : start + _DELETE_BATCH]
            try:
                self._retry.call(lambda batch=batch: self._target.delete(batch))  # type: ignore[misc]
            except TargetError as error:
                raise WriteError(str(error), tuple(batch)) from error

    def _parts(self, sizes: Sequence[int]) -> Iterator[slice]:
        start = total = 0
        for i, size in enumerate(sizes):
            is_full = self._max_points is not None and i - start >= self._max_points
            if i > start and (is_full or total + size > self._request_bytes):
                yield slice(start, i)
                start, total = i, 0
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
            # After a lost answer the points are written again rather than looked up: one replica
            # that has them says nothing about the others.
            self._retry.call(lambda: self._target.upsert(ids, payloads, rows))
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


def _sizes(payloads: Sequence[Payload], rows: Mapping[str, Rows]) -> list[int]:
    """Estimate the size of each point in a request, in bytes."""
    numbers = sum(matrix.shape[1] for matrix in rows.values() if isinstance(matrix, np.ndarray))
    return [_NUMBER_BYTES * numbers + len(orjson.dumps(payload)) for payload in payloads]


def _slice(rows: Mapping[str, Rows], part: slice) -> dict[str, Rows]:
    return {name: matrix[part] for name, matrix in rows.items()}

"""Read and write points in requests of a suitable size, with retries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.errors import (
    LimitError,
    RefusedError,
    ReplicaError,
    TargetError,
    TooLargeError,
    WriteError,
)
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import AnyVectorBatch, CollectionSettings
from quernstone_qdrant.targets.base import Limits, Payload, StoredPoint, Target
from quernstone_qdrant.writes import P, Refusal, Request, point_sizes, refusal_reason

if TYPE_CHECKING:
    from qdrant_client.models import Filter

REQUEST_BYTES = 2 << 20
"""A hundred or more typical vectors. A server accepts 32 MB (`max_request_size_mb`), but a client
holds several copies of a write, as objects and as text, on each thread."""
MAX_POINT_BYTES = 32 << 20
"""A REST server accepts 32 MiB (`max_request_size_mb`). gRPC accepts more, but both transports
should accept the same points."""
_BATCH = 4096
_SMALLEST_PAGE = 2
"""Minimum page size: a page repeats the last point of the previous one."""
_Kind: TypeAlias = Literal["retrieve", "scroll", "upsert", "update", "delete"]
_LIMITS: Mapping[_Kind, Sequence[str]] = {
    "retrieve": ("read_rate",),
    "scroll": ("read_rate", "query"),
    "upsert": ("write_rate", "upsert"),
    "update": ("write_rate", "upsert", "condition"),
    "delete": ("write_rate",),
}
"""The fields of `Limits` that bound the points of each kind of request."""
T = TypeVar("T")
_REPLICA_PATIENCE = 5.0
"""Seconds to retry a lookup on every replica before the remaining replicas are asked."""
_REPLICA_LOST_SECONDS = 30.0
"""Seconds after a replica was lost in which further lookups do not wait for it."""


class PointStore:
    """The points of one collection, with retries. Thread-safe if the target is.

    Args:
        target: The collection.
        settings: Settings of the collection, which turn embeddings into vectors.
        retry: Policy for failed requests.
        request_bytes: Approximate size limit of a request; lowered when the server refuses one.
        check: Called before each write of several points; raises an error if the collection is not
            the one that was opened.
    """

    def __init__(
        self,
        target: Target,
        settings: CollectionSettings,
        retry: Retry,
        *,
        request_bytes: int = REQUEST_BYTES,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._target, self._settings, self._retry = target, settings, retry
        self._request_bytes, self._check = request_bytes, check
        self._known_limits: Limits | None = None
        self._most = dict.fromkeys(_LIMITS, _BATCH)
        """Points per request; lowered when a server refuses one without showing its limit."""
        self._replica_lost_until = -math.inf
        self._accepts = False
        """True once a point was accepted."""

    def payloads(self, ids: Sequence[str], *, every_replica: bool = True) -> dict[str, Payload]:
        """Return the loader's own payload field of each existing point in `ids`, by id.

        Args:
            ids: Ids of the points.
            every_replica: See `Target.payloads`.

        Raises:
            TargetError: The points cannot be read.
        """

        def read(part: Sequence[str]) -> dict[str, Payload]:
            return self._target.payloads(part, [OWN_KEY], every_replica=every_replica)

        found: dict[str, Payload] = {}
        for part in self._divided("retrieve", ids, read):
            found |= part
        return found

    def look_up(self, ids: Sequence[str]) -> tuple[dict[str, Payload], bool]:
        """Return the payloads of existing points by id, and True if every replica confirmed them.

        If a replica does not answer within a few seconds, one of the others is asked, so that a
        load continues while a node is down.

        Raises:
            TargetError: The points cannot be read.
        """
        now = time.monotonic()
        waits = 0.0 if now < self._replica_lost_until else _REPLICA_PATIENCE
        ends = now + min(waits, self._retry.patience)
        confirmed = True

        def read(part: Sequence[str]) -> dict[str, Payload]:
            nonlocal confirmed
            try:
                return self._target.payloads(part, [OWN_KEY])
            except ReplicaError:
                if time.monotonic() < ends:
                    raise
            found = self._target.payloads(part, [OWN_KEY], every_replica=False)
            self._replica_lost_until = time.monotonic() + _REPLICA_LOST_SECONDS
            confirmed = False
            return found

        found: dict[str, Payload] = {}
        for part in self._divided("retrieve", ids, read):
            found |= part
        return found, confirmed

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        batch: int = 1000,
        with_vectors: bool | list[str] = False,
        where: Filter | None = None,
        start: str | None = None,
        every_replica: bool = True,
    ) -> Iterator[StoredPoint]:
        """Yield points after `start` in the order of their ids; see `Target.scroll`.

        Raises:
            TargetError: The points cannot be read.
        """
        while True:
            size = max(self._size("scroll", batch), _SMALLEST_PAGE)
            pages = partial(
                self._target.scroll,
                fields,
                batch=size,
                with_vectors=with_vectors,
                where=where,
                start=start,
                every_replica=every_replica,
            )
            try:
                page = self._retry.call(lambda pages=pages, size=size: list(islice(pages(), size)))  # type: ignore[misc]
            except LimitError:
                if size <= _SMALLEST_PAGE:
                    raise
                self._lower_limit("scroll", size)
                continue
            yield from (point for point in page if point.id != start)
            if len(page) < size:
                return
            start = page[-1].id

    def write(
        self, points: Sequence[Point], embeddings: Float32Array, *, skip_refused: bool = False
    ) -> list[Refusal[Point]]:
        """Write points, and return once all are confirmed.

        A request whose content or size is refused is bisected to find the points at fault.

        Args:
            points: The points to store.
            embeddings: Shape: (len(points), dimensions)
            skip_refused: Skip points that are refused in a request of their own.

        Returns:
            The points that were left out.

        Raises:
            WriteError: Some points are not confirmed; the error names them. Also raised with
                `skip_refused` if no point at all was accepted: then the points are not at fault.
            CollectionError: The collection was replaced.
        """
        self._retry.call(self._check)
        rows = self._settings.vectors_to_write(embeddings, [point.text for point in points])
        payloads = [point.payload() for point in points]
        whole = Request(points, payloads, rows, point_sizes(payloads, rows))
        left_out: list[Refusal[Point]] = []
        for part in self._parts(whole.sizes):
            request = whole.part(part)
            refused = self._send(request, skip_refused=skip_refused)
            if refused and not skip_refused:
                first = refused[0]
                raise WriteError(first.reason, request.ids[request.ids.index(first.point.id) :])
            if len(refused) < len(request.ids):
                self._accepts = True
            elif len(refused) > 1 and not self._accepts:
                raise WriteError(
                    f"{refused[0].reason}; all {len(refused)} points of the request are refused",
                    request.ids,
                )
            left_out += refused
        return left_out

    def copy(self, points: Sequence[StoredPoint]) -> None:
        """Write points of another collection with all their vectors; return once confirmed.

        Raises:
            WriteError: Some points are not confirmed; the error names them.
        """
        groups: dict[tuple[str, ...], list[StoredPoint]] = {}
        for point in points:
            groups.setdefault((*sorted(point.vectors), *sorted(point.sparse)), []).append(point)
        for alike in groups.values():
            rows: dict[str, AnyVectorBatch] = {
                name: _rows([point.vectors[name] for point in alike]) for name in alike[0].vectors
            }
            rows |= {name: [point.sparse[name] for point in alike] for name in alike[0].sparse}
            payloads = [point.payload for point in alike]
            whole = Request(alike, payloads, rows, point_sizes(payloads, rows))
            for part in self._parts(whole.sizes):
                request = whole.part(part)
                for refused in self._send(request, skip_refused=False):
                    unwritten = request.ids[request.ids.index(refused.point.id) :]
                    raise WriteError(refused.reason, unwritten)

    def refresh(self, points: Sequence[Point]) -> None:
        """Write the payloads of stored points, keeping their vectors; return once confirmed.

        Raises:
            WriteError: Some writes are not confirmed; the error names the points.
            CollectionError: The collection was replaced.
        """
        self.update([point.id for point in points], [point.payload() for point in points], {})

    def update(
        self,
        ids: Sequence[str],
        payloads: Sequence[Payload],
        vectors: Mapping[str, AnyVectorBatch],
        *,
        hashes: Sequence[str] = (),
    ) -> None:
        """Replace payload fields and vectors of stored points; see `Target.update`.

        A request that is too large or exceeds a limit is divided.

        Raises:
            WriteError: Some writes are not confirmed; the error names the points.
            CollectionError: The collection was replaced.
        """
        if ids:
            self._retry.call(self._check)
        kind: _Kind = "update" if hashes else "upsert"
        waiting = list(self._parts(point_sizes(payloads, vectors), kind))[::-1]
        while waiting:
            part = waiting.pop()
            rows = {name: matrix[part] for name, matrix in vectors.items()}
            request = partial(
                self._target.update, ids[part], payloads[part], rows, hashes=hashes[part]
            )
            try:
                self._retry.call(request)
            except (TooLargeError, LimitError) as error:
                middle = (part.start + part.stop) // 2
                if middle == part.start:
                    raise WriteError(str(error), tuple(ids[part.start :])) from error
                self._known_limits = None  # read them again for the next requests
                waiting += [slice(middle, part.stop), slice(part.start, middle)]
            except TargetError as error:
                raise WriteError(str(error), tuple(ids[part.start :])) from error

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points in the given order, and return once this is confirmed.

        Raises:
            WriteError: Some deletions are not confirmed; the error names the points.
            CollectionError: The collection was replaced.
        """
        if ids:
            self._retry.call(self._check)
        deleted = 0
        try:
            for part in self._divided("delete", ids, self._delete):
                deleted += part
        except TargetError as error:
            raise WriteError(str(error), tuple(ids[deleted:])) from error

    def _delete(self, ids: Sequence[str]) -> int:
        self._target.delete(ids)
        return len(ids)

    def _divided(
        self, kind: _Kind, ids: Sequence[str], request: Callable[[Sequence[str]], T]
    ) -> Iterator[T]:
        """Request all of `ids`, in parts as large as the collection's limits allow."""
        start = 0
        while start < len(ids):
            part = ids[start : start + self._size(kind, len(ids))]
            try:
                yield self._retry.call(lambda part=part: request(part))  # type: ignore[misc]
            except LimitError:
                if len(part) == 1:
                    raise
                self._lower_limit(kind, len(part))
            else:
                start += len(part)

    @property
    def _limits(self) -> Limits:
        limits = self._known_limits
        if limits is None:
            limits = self._known_limits = self._retry.call(self._target.state).limits
        return limits

    def _size(self, kind: _Kind, wanted: int) -> int:
        """Return the number of points for a request."""
        limits = self._limits
        allowed: list[int | None] = [getattr(limits, name) for name in _LIMITS[kind]]
        return max(1, min([wanted, self._most[kind], *(n for n in allowed if n is not None)]))

    def _lower_limit(self, kind: _Kind, refused: int) -> None:
        """Read the limits again after a request for `refused` points exceeded one.

        If the collection shows no such limit, use half as many points from now on.
        """
        self._known_limits = None
        if self._size(kind, refused) == refused:
            self._most[kind] = refused // 2

    def _parts(self, sizes: Sequence[int], kind: _Kind = "upsert") -> Iterator[slice]:
        start = total = 0
        most = self._size(kind, len(sizes))
        for i, size in enumerate(sizes):
            if i > start and (i - start >= most or total + size > self._request_bytes):
                yield slice(start, i)
                start, total = i, 0
                most = self._size(kind, len(sizes))
            total += size
        if start < len(sizes):
            yield slice(start, len(sizes))

    def _send(self, request: Request[P], *, skip_refused: bool) -> list[Refusal[P]]:
        """Write points, and return the refused ones; without `skip_refused`, only the first."""
        ids, size = request.ids, sum(request.sizes)
        try:
            if len(ids) == 1 and size > MAX_POINT_BYTES and self._target.kind == "server":
                raise TooLargeError(
                    f"a server takes at most {MAX_POINT_BYTES:,} bytes (collection "
                    f"{self._target.collection!r})"
                )
            # After a lost response, write the points again instead of looking them up: finding
            # them on one replica would not prove that the others have them.
            self._retry.call(lambda: self._target.upsert(ids, request.payloads, request.rows))
        except (TooLargeError, LimitError, RefusedError) as error:
            if len(ids) == 1:
                return [
                    Refusal(
                        request.points[0], refusal_reason(error, request.points[0], size), error
                    )
                ]
            if isinstance(error, LimitError):
                self._known_limits = None  # read them again for the next requests
            elif isinstance(error, TooLargeError):
                self._request_bytes = min(self._request_bytes, max(1, size // 2))
            middle = len(ids) // 2
            refused = self._send(request.part(slice(0, middle)), skip_refused=skip_refused)
            if skip_refused or not refused:
                rest = request.part(slice(middle, len(ids)))
                refused += self._send(rest, skip_refused=skip_refused)
            return refused
        except TargetError as error:
            raise WriteError(str(error), ids) from error
        return []


def _rows(vectors: list[Float32Array]) -> AnyVectorBatch:
    """Return the vectors of points as one matrix, unless they are multivectors."""
    return np.stack(vectors) if vectors[0].ndim == 1 else vectors

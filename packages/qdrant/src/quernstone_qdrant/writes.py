"""A write request: its points, their sizes, how it is divided, and the points that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import orjson

from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.errors import TargetError, TooLargeError
from quernstone_qdrant.settings import AnyVectorBatch
from quernstone_qdrant.targets.base import Payload, StoredPoint

_NUMBER_BYTES = 13
"""Size of a float32 in JSON, with the comma; gRPC needs 4 bytes."""
P = TypeVar("P", Point, StoredPoint)


@dataclass(frozen=True, slots=True)
class Refusal(Generic[P]):
    """A point that was refused although it was the only one in its request."""

    point: P
    reason: str
    """The server's message, and the name of the point."""
    error: TargetError


@dataclass(frozen=True, slots=True)
class Request(Generic[P]):
    """Points to write."""

    points: Sequence[P]
    payloads: Sequence[Payload]
    rows: Mapping[str, AnyVectorBatch]
    sizes: Sequence[int]
    """Estimated bytes of each point."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the points."""
        return tuple(point.id for point in self.points)

    def part(self, part: slice) -> Request[P]:
        """Return a request for some of the points."""
        rows = {name: matrix[part] for name, matrix in self.rows.items()}
        return Request(self.points[part], self.payloads[part], rows, self.sizes[part])


def refusal_reason(error: TargetError, point: Point | StoredPoint, size: int) -> str:
    """Describe why a point that was the only one in its request was refused.

    Args:
        error: The error of the request.
        point: The point.
        size: Its estimated size in bytes.
    """
    if isinstance(point, Point):
        chunk = f"chunk {point.chunk.number} of record {point.chunk.record.key!r}"
    else:
        chunk = f"point {point.id}"
    if isinstance(error, TooLargeError):
        advice = "split it, or shorten its metadata"
        return f"{error}; {chunk} alone is about {size:,} bytes: {advice}"
    return f"{error}; the request holds only {chunk}"


def point_sizes(payloads: Sequence[Payload], rows: Mapping[str, AnyVectorBatch]) -> list[int]:
    """Estimate the size of each point in a request, in bytes."""
    numbers = sum(matrix.shape[1] for matrix in rows.values() if isinstance(matrix, np.ndarray))
    sizes = [_NUMBER_BYTES * numbers + len(orjson.dumps(payload)) for payload in payloads]
    for matrix in rows.values():
        for place, row in enumerate([] if isinstance(matrix, np.ndarray) else matrix):
            if isinstance(row, np.ndarray):  # a multivector
                sizes[place] += _NUMBER_BYTES * row.size
    return sizes

"""Read the JSON answers of servers, and check their shape."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

NATIVE_PROTOCOL = 2
"""The version of the protocol between `quern serve` and the dialect `quernstone`."""

Found = list[tuple[int, Any]]
"""(position in the request, numbers or score) for each result, in the order of the answer."""


class ShapeError(ValueError):
    """An answer does not have the shape that the dialect expects."""


def read_embeddings(answer: Any) -> Found:
    """Read `{"data": [{"index", "embedding"}]}`, with numbers as a list or in base64."""
    return [(_index(item), _vector(_field(item, "embedding"))) for item in as_list(answer, "data")]


def read_rows(answer: Any) -> Found:
    """Read a list of lists of numbers, in the order of the inputs."""
    return list(enumerate(map(_vector, as_list(answer))))


def read_results(answer: Any) -> Found:
    """Read `{"results": [{"index", "relevance_score"}]}`, in any order."""
    items = as_list(answer, "results")
    return [(_index(item), _field(item, "relevance_score")) for item in items]


def read_scores(answer: Any) -> Found:
    """Read `{"data": [{"index", "score"}]}`."""
    return [(_index(item), _field(item, "score")) for item in as_list(answer, "data")]


def read_classes(answer: Any) -> Found:
    """Read `{"data": [{"index", "probs"}]}`, with P(yes) as the only class."""
    found = [(_index(item), _field(item, "probs")) for item in as_list(answer, "data")]
    if not all(isinstance(probs, list) and len(probs) == 1 for _, probs in found):
        raise ShapeError("its `probs` have more or less than the one class of a Qwen3 reranker")
    return [(index, probs[0]) for index, probs in found]


def read_ranks(answer: Any) -> Found:
    """Read a list of `{"index", "score"}`, in any order."""
    return [(_index(item), _field(item, "score")) for item in as_list(answer)]


def read_label_scores(answer: Any) -> Found:
    """Read `{"scores": [[P(no), P(yes)]]}`, in the order of the inputs."""
    rows = as_list(answer, "scores")
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ShapeError("its `scores` are not pairs")
    return [(index, row[1]) for index, row in enumerate(rows)]


def as_list(answer: Any, name: str | None = None) -> list[Any]:
    """Return the answer, or its field `name`, which must be a list."""
    found = answer if name is None else _field(answer, name)
    if not isinstance(found, list):
        what = "it" if name is None else f"its `{name}`"
        raise ShapeError(f"{what} is {type(found).__name__}, expected a list")
    return found


def read_native(answer: Any) -> Found:
    """Read the answer of `quern serve`: all rows as one block of base64."""
    width = count(_field(answer, "width"))
    rows = _vector(_field(answer, "rows"))
    if width is None or not isinstance(rows, np.ndarray) or len(rows) % width:
        raise ShapeError("its `rows` do not have `width` numbers each")
    return list(enumerate(rows.reshape(-1, width)))


def read_native_usage(answer: Any) -> tuple[int, int]:
    """Read the tokens of a request from the answer of `quern serve`, and its cut inputs."""
    return int(_field(answer, "tokens")), len(as_list(answer, "truncated"))


def _field(item: Any, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise ShapeError(f"there is no `{name}`")
    return item[name]


def _index(item: Any) -> int:
    index = _field(item, "index")
    if isinstance(index, bool) or not isinstance(index, int):
        raise ShapeError(f"an `index` is {type(index).__name__}")
    return index


def _vector(value: Any) -> Any:
    """Decode base64 of little-endian 32-bit floats; pass lists through."""
    if not isinstance(value, str):
        return value
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    except (binascii.Error, ValueError) as error:
        raise ShapeError(f"an embedding is not base64 of 32-bit floats: {error}") from error


def count(value: Any) -> int | None:
    """Return a positive integer; None for anything else."""
    usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if usable else None

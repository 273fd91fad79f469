"""Load records with vectors that were computed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quernstone.errors import ConfigError
from quernstone.types import unit_prefix
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import RecordError

Vectors: TypeAlias = "str | NDArray[Any]"
"""Name of the field with the vector of a record, or an array of shape (records, dimensions)."""


class PrecomputedVectors:
    """A converter of values to records with their precomputed vectors.

    Args:
        convert: Converts a value and its position to a record.
        vectors: Name of the field with the vector, or an array of one row per value.
        dimensions: Size of the collection's vectors.

    Raises:
        ConfigError: The array does not have the shape (records, dimensions).
    """

    def __init__(
        self, convert: Callable[[object, int], Record], vectors: Vectors, dimensions: int
    ) -> None:
        self._convert, self._vectors, self._dimensions = convert, vectors, dimensions
        if not isinstance(vectors, str) and vectors.shape[1:] != (dimensions,):
            raise ConfigError(
                f"`vectors` has shape {vectors.shape}; the collection needs (records, {dimensions})"
            )

    def __call__(self, value: object, position: int) -> Record:
        """Convert a value.

        Raises:
            RecordError: It cannot be converted, or its vector is missing or not valid.
        """
        given: Any = None
        if not isinstance(self._vectors, str):
            record = self._convert(value, position)
            if position >= len(self._vectors):
                raise RecordError(
                    record.key,
                    f"it is record {position}, but there are {len(self._vectors):,} vectors",
                )
            given = self._vectors[position]
        elif isinstance(value, Mapping):
            given = value.get(self._vectors)
            rest = {name: part for name, part in value.items() if name != self._vectors}
            record = self._convert(rest, position)
        else:
            record = self._convert(value, position)
            metadata = dict(record.metadata)
            given = metadata.pop(self._vectors, None)
            record = replace(record, metadata=metadata)
            if given is None:  # a dead letter or a LlamaIndex node has it as an attribute
                given = record.vector if record.vector is not None else _embedding(value)
        if given is None:
            raise RecordError(record.key, f"it has no vector in the field `{self._vectors}`")
        return replace(record, vector=self._checked(given, record.key))

    def _checked(self, given: Any, key: str) -> NDArray[np.float32]:
        try:
            vector = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise RecordError(key, f"its vector is not a list of numbers: {error}") from error
        if vector.shape != (self._dimensions,):
            raise RecordError(
                key,
                f"its vector has shape {vector.shape}, not ({self._dimensions},): another model "
                "or size computed it",
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise RecordError(key, "its vector has NaN, infinity, or only zeros")
        return unit_prefix(vector, self._dimensions)


def _embedding(value: object) -> Any:
    """Return the vector of a LlamaIndex node."""
    return getattr(value, "embedding", None)

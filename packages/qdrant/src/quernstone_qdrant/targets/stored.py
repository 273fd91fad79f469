"""Convert points that were read; the records of qdrant-client and Edge have the same fields."""

from __future__ import annotations

from typing import Any

import numpy as np

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import SparseVector
from quernstone_qdrant.targets.base import StoredPoint


def stored_point(record: Any) -> StoredPoint:
    """Convert a record."""
    return StoredPoint(
        id=str(record.id),
        payload=record.payload or {},
        vectors=dense_vectors(record.vector),
        sparse={
            name: SparseVector(vector.indices, vector.values)
            for name, vector in _named(record.vector).items()
            if hasattr(vector, "indices")
        },
    )


def dense_vectors(stored: Any) -> dict[str, Float32Array]:
    """Return the dense vectors of a record by name. The name of an unnamed vector is empty."""
    return {
        name: np.asarray(vector, dtype=np.float32)
        for name, vector in _named(stored).items()
        if isinstance(vector, list)
    }


def _named(stored: Any) -> dict[str, Any]:
    return stored if isinstance(stored, dict) else {"": stored} if stored is not None else {}

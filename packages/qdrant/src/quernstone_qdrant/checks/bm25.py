"""Compare stored BM25 vectors with newly computed ones."""

from __future__ import annotations

import math

from quernstone_qdrant.documents.bm25 import SparseVector, encode_document
from quernstone_qdrant.settings import CollectionSettings

_RELATIVE_ERROR = 2.0**-20
"""Tolerance for values: Qdrant stores them as float32."""


def is_bm25_of(text: str, stored: SparseVector | None, settings: CollectionSettings) -> bool:
    """Return True if `stored` is the BM25 vector of a text; None stands for an empty vector."""
    expected = _weights(encode_document(settings.bm25_text(text)))
    found = _weights(stored) if stored is not None else {}
    return found.keys() == expected.keys() and all(
        math.isclose(found[index], value, rel_tol=_RELATIVE_ERROR)
        for index, value in expected.items()
    )


def _weights(vector: SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices, vector.values, strict=True))

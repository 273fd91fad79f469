"""BM25 vectors, computed in this process for every target.

`qdrant_edge.Bm25` has the token ids and the formula of a server's `Qdrant/bm25`, needs neither a
model file nor a network, and is thread-safe. qdrant-client's own way, `models.Document`, is not:
threads that share a client get each other's vectors. The rule is not written again here, because
the stop words and stemmers of 30 languages would have to follow the server's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qdrant_edge import Bm25, Bm25Config

LANGUAGES = (
    "arabic", "azerbaijani", "basque", "bengali", "catalan", "chinese", "danish", "dutch",
    "english", "finnish", "french", "german", "greek", "hebrew", "hinglish", "hungarian",
    "indonesian", "italian", "japanese", "kazakh", "nepali", "norwegian", "portuguese", "romanian",
    "russian", "slovene", "spanish", "swedish", "tajik", "turkish",
)  # fmt: skip
"""Languages with stop words in Qdrant (`models.Language`); most also have a stemmer."""


class Bm25Text(NamedTuple):
    """A text to encode as a BM25 vector."""

    text: str
    language: str
    """Language of the stop words and the stemmer: one of `LANGUAGES`."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The nonzero entries of a vector."""

    indices: Sequence[int]
    values: Sequence[float]


def encode_document(document: Bm25Text) -> SparseVector:
    """Return the saturated term frequencies of a text; empty if it has only stop words."""
    vector = _encoder(document.language).embed_document(document.text)
    return SparseVector(vector.indices, vector.values)


def encode_query(query: Bm25Text) -> SparseVector:
    """Return 1 for each term of a query."""
    vector = _encoder(query.language).embed_query(query.text)
    return SparseVector(vector.indices, vector.values)


@functools.cache
def _encoder(language: str) -> Bm25:
    return Bm25(Bm25Config(language=language))

"""BM25 vectors, computed without a server.

A Qdrant server computes them from `models.Document(text, model="Qdrant/bm25")`. The embedded client
cannot, so this module uses `qdrant_edge.Bm25`, which has the same token ids and the same formula
and needs neither a model file nor a network.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from quernstone.errors import MissingExtraError

if TYPE_CHECKING:
    from qdrant_edge import Bm25

MODEL = "Qdrant/bm25"
"""Name of the encoder on the server."""
LANGUAGES = (
    "arabic", "azerbaijani", "basque", "bengali", "catalan", "chinese", "danish", "dutch",
    "english", "finnish", "french", "german", "greek", "hebrew", "hinglish", "hungarian",
    "indonesian", "italian", "japanese", "kazakh", "nepali", "norwegian", "portuguese", "romanian",
    "russian", "slovene", "spanish", "swedish", "tajik", "turkish",
)  # fmt: skip
"""Languages with stop words in Qdrant (`models.Language`); most also have a stemmer."""


class Bm25Text(NamedTuple):
    """A text to encode as a BM25 vector, on the server or in this process."""

    text: str
    language: str
    """Language of the stop words and the stemmer: one of `LANGUAGES`."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The nonzero entries of a vector."""

    indices: Sequence[int]
    values: Sequence[float]


def has_encoder() -> bool:
    """Return True if `encode_document` and `encode_query` can be used."""
    return find_spec("qdrant_edge") is not None


def encode_document(document: Bm25Text) -> SparseVector:
    """Return the saturated term frequencies of a text; empty if it has only stop words.

    Raises:
        MissingExtraError: `qdrant-edge-py` is not installed.
    """
    vector = _encoder(document.language).embed_document(document.text)
    return SparseVector(vector.indices, vector.values)


def encode_query(query: Bm25Text) -> SparseVector:
    """Return 1 for each term of a query.

    Raises:
        MissingExtraError: `qdrant-edge-py` is not installed.
    """
    vector = _encoder(query.language).embed_query(query.text)
    return SparseVector(vector.indices, vector.values)


@functools.cache
def _encoder(language: str) -> Bm25:
    try:
        from qdrant_edge import Bm25, Bm25Config
    except ImportError as error:
        raise MissingExtraError("qdrant_edge", "edge", "quernstone-qdrant") from error
    return Bm25(Bm25Config(language=language))

"""BM25 vectors, made without a server.

A Qdrant server makes them itself, of `models.Document(text, model="Qdrant/bm25")`. The embedded
client cannot, so `qdrant_edge.Bm25` does: the same token ids and the same formula, without a model
file or a network.
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
"""The server's name of the encoder."""
LANGUAGES = (
    "arabic", "azerbaijani", "basque", "bengali", "catalan", "chinese", "danish", "dutch",
    "english", "finnish", "french", "german", "greek", "hebrew", "hinglish", "hungarian",
    "indonesian", "italian", "japanese", "kazakh", "nepali", "norwegian", "portuguese", "romanian",
    "russian", "slovene", "spanish", "swedish", "tajik", "turkish",
)  # fmt: skip
"""Those that Qdrant has stop words for (`models.Language`); it has stemmers for most of them."""


class Bm25Text(NamedTuple):
    """A text that becomes a BM25 vector where it is written: on the server, or in here."""

    text: str
    language: str
    """Of its stop words and its stemmer: one of `LANGUAGES`."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The numbers that are not zero."""

    indices: Sequence[int]
    values: Sequence[float]


def has_encoder() -> bool:
    """Whether `encode_document` and `encode_query` can work."""
    return find_spec("qdrant_edge") is not None


def encode_document(document: Bm25Text) -> SparseVector:
    """The saturated term frequencies of a text; empty when it has only stop words.

    Raises:
        MissingExtraError: `qdrant-edge-py` is not installed.
    """
    made = _encoder(document.language).embed_document(document.text)
    return SparseVector(made.indices, made.values)


def encode_query(query: Bm25Text) -> SparseVector:
    """1 for each term of a query. Raises what `encode_document` does."""
    made = _encoder(query.language).embed_query(query.text)
    return SparseVector(made.indices, made.values)


@functools.cache
def _encoder(language: str) -> Bm25:
    try:
        from qdrant_edge import Bm25, Bm25Config
    except ImportError as error:
        raise MissingExtraError("qdrant_edge", "edge", "quernstone-qdrant") from error
    return Bm25(Bm25Config(language=language))

"""BM25 vectors, computed in this process for every target.

`qdrant_edge.Bm25` has the token ids and the formula of a server's `Qdrant/bm25`, needs neither a
model file nor a network, and is thread-safe. qdrant-client's own way, `models.Document`, is not:
threads that share a client get each other's vectors. The rule is not written again here, because
the stop words and stemmers of 30 languages would have to follow the server's.

A rule decides which terms a text has. A collection keeps the rule that it was created with:

1. Terms are runs of letters and digits, as on a server by default. Chinese, Japanese and Thai have
   no spaces between words, so a whole clause is one term.
2. Runs of scripts without spaces, and of Hangul, become terms of one character and of each two
   neighbors. Half-width and full-width forms are equal. All else is as in rule 1.

Dictionary tokenizers were worse: where they cut depends on the rest of the text, so a query and a
document that share a word may share no term, and a new version may cut elsewhere. The server's
`multilingual` also drops numbers. docs/notes/bm25-scripts.md has the figures.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qdrant_edge import Bm25, Bm25Config

LANGUAGES = (
    "arabic", "azerbaijani", "basque", "bengali", "catalan", "chinese", "danish", "dutch",
    "english", "finnish", "french", "german", "greek", "hebrew", "hinglish", "hungarian",
    "indonesian", "italian", "japanese", "kazakh", "nepali", "norwegian", "portuguese", "romanian",
    "russian", "slovene", "spanish", "swedish", "tajik", "turkish",
)  # fmt: skip
"""Languages with stop words in Qdrant (`models.Language`); most also have a stemmer."""


Bm25Rule = Literal[1, 2]
"""Version of the rule that splits a text into terms."""
NEWEST_RULE: Bm25Rule = 2

# Written out, because the classes of a library change with its version of Unicode.
_UNSPACED = re.compile(
    "["
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\ufa0e-\ufa29\U00020000-\U000323af"  # Han
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\uac00-\ud7a3"  # Hangul, whose particles follow a noun without a space
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ebd\u0ec0-\u0ec6\u0ec8-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d"  # Burmese
    "\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f"  # Shan, Khamti and others
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "]+"
)
_MARKS = re.compile(
    "[\u0e47-\u0e4c\u0e4e\u0eba\u0ec8-\u0ecc\u1037\u1039\u103a\u17b4\u17b5\u17c9-\u17d3\u17dd]+"
)
"""Tone marks and the like, which are not letters: `qdrant_edge.Bm25` would split a term there."""


class Bm25Text(NamedTuple):
    """A text to encode as a BM25 vector."""

    text: str
    language: str
    """Language of the stop words and the stemmer: one of `LANGUAGES`."""
    rule: Bm25Rule


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The nonzero entries of a vector."""

    indices: Sequence[int]
    values: Sequence[float]


def encode_document(document: Bm25Text | SparseVector) -> SparseVector:
    """Return the saturated term frequencies of a text; empty if it has only stop words.

    A vector, which another collection stores, is returned unchanged.
    """
    if isinstance(document, SparseVector):
        return document
    vector = _encoder(document.language).embed_document(_prepare(document, singles=True))
    return SparseVector(vector.indices, vector.values)


def encode_query(query: Bm25Text) -> SparseVector:
    """Return 1 for each term of a query."""
    vector = _encoder(query.language).embed_query(_prepare(query, singles=False))
    return SparseVector(vector.indices, vector.values)


def _prepare(text: Bm25Text, *, singles: bool) -> str:
    """Return a text that `qdrant_edge.Bm25` splits by the rule.

    Args:
        text: A document or a query.
        singles: Also emit the single characters of runs. Queries have none, except for runs of one
            character: the pairs say more.
    """
    if text.rule == 1:
        return text.text

    def spaced(match: re.Match[str]) -> str:
        run = _MARKS.sub("", match.group())
        terms = [first + second for first, second in itertools.pairwise(run)]
        if singles or not terms:
            terms += run
        return f" {' '.join(terms)} "

    return _UNSPACED.sub(spaced, unicodedata.normalize("NFKC", text.text))


@functools.cache
def _encoder(language: str) -> Bm25:
    return Bm25(Bm25Config(language=language))

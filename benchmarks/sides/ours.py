"""Quernstone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quernstone import Embedder, Reranker


class Embedding:
    """`Embedder`."""

    def __init__(self, **settings: Any) -> None:
        self._embedder = Embedder(**settings)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return self._embedder.embed_documents(texts)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return self._embedder.embed_queries(texts)

    def query(self, text: str) -> np.ndarray:
        """Shape: (hidden,)."""
        return self._embedder.embed_query(text)

    def stream(self, texts: Sequence[str], count: int) -> int:
        """Embed `texts` repeatedly, with a new number each time, and discard the vectors.

        Returns:
            The total number of tokens.
        """
        before = self._embedder.usage.tokens
        numbered = (f"{place:05} {texts[place % len(texts)]}" for place in range(count))
        for _ in self._embedder.stream(numbered):
            pass
        return self._embedder.usage.tokens - before

    def peak_bytes(self) -> int:
        """Return the peak resident memory of this process, as Linux counts it."""
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


class Reranking:
    """`Reranker`."""

    def __init__(self, **settings: Any) -> None:
        self._reranker = Reranker(**settings)

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """P(yes) of each document."""
        return self._reranker.score([(query, document) for document in documents])

    def many(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """P(yes) of each document for each query. Shape: (queries, documents)."""
        scores = np.empty((len(queries), len(documents)))
        for row, ranked in zip(scores, self._reranker.rerank_many(queries, documents), strict=True):
            for found in ranked:
                row[found.index] = found.score
        return scores

"""Qwen3 reranking as a LangChain cross-encoder."""

from __future__ import annotations

from langchain_core.cross_encoders import BaseCrossEncoder
from typing_extensions import override

from langchain_quernstone.reranker import RerankerSettings


class QuernstoneCrossEncoder(RerankerSettings, BaseCrossEncoder):
    """Score (query, document) pairs with a Qwen3-Reranker model.

    For code that takes a `BaseCrossEncoder`, such as `CrossEncoderReranker` of langchain-classic.
    That one drops the scores; `QuernstoneReranker` does the same job and keeps them.

    Loading and sharing are those of `QuernstoneReranker`.

    Example:
        >>> from langchain_quernstone import QuernstoneCrossEncoder
        >>> encoder = QuernstoneCrossEncoder(model="tiny")
        >>> [score] = encoder.score([("edit text", "a text editor")])
        >>> 0 <= score <= 1
        True
    """

    @override
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs of a query and a document.

        Args:
            text_pairs: Any number of `(query, document)`, in any order; pairs of one query are
                recognised wherever they stand and share its computation.

        Returns:
            One probability of relevance per pair, 0 to 1, in the order of `text_pairs`.

        Raises:
            InputError: A pair cannot be scored; `.index` says which one.
        """
        if not text_pairs:
            return []
        scores: list[float] = self._core.get(self._settings()).score(text_pairs).tolist()
        return scores

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """`score` for coroutines; concurrent calls share batches."""
        if not text_pairs:
            return []
        reranker = await self._core.aget(self._settings())
        scores: list[float] = (await reranker.ascore(text_pairs)).tolist()
        return scores

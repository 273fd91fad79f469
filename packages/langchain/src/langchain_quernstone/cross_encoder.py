"""Qwen3 reranking as a LangChain cross-encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from os import PathLike
from typing import TYPE_CHECKING

from langchain_core.cross_encoders import BaseCrossEncoder
from typing_extensions import Unpack, override

from langchain_quernstone.reranker import RerankerModel
from quernstone.frameworks.settings import RerankerSettings


class QuernstoneCrossEncoder(RerankerModel, BaseCrossEncoder):
    """Cross-encoder that scores (query, document) pairs with a Qwen3-Reranker model.

    Use it where a `BaseCrossEncoder` is expected, such as in `CrossEncoderReranker` of
    langchain-classic. That class drops the scores; `QuernstoneReranker` keeps them. Models are
    loaded and shared in the same way as by `QuernstoneReranker`.

    Examples:
        >>> from langchain_quernstone import QuernstoneCrossEncoder
        >>> encoder = QuernstoneCrossEncoder(model="tiny")
        >>> [score] = encoder.score([("edit text", "a text editor")])
        >>> 0 <= score <= 1
        True
    """

    if TYPE_CHECKING:  # type checkers derive a constructor for each class without one

        def __init__(
            self,
            model: str | PathLike[str] | None = None,
            /,
            **settings: Unpack[RerankerSettings],
        ) -> None: ...

    @override
    def score(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Score pairs of a query and a document.

        Args:
            text_pairs: A list or another iterable of `(query, document)` pairs, in any order. A
                query that occurs in several pairs is computed once.

        Returns:
            The probability of relevance, 0 to 1, of each pair, in the order of `text_pairs`.

        Raises:
            InputError: A pair cannot be scored; `.index` is its position.
        """
        if _is_empty(text_pairs):
            return []
        reranker = self._core.get(self._settings())
        scores: list[float] = reranker.score(text_pairs, progress=self.show_progress).tolist()
        return scores

    async def ascore(self, text_pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Like `score`, without blocking the event loop."""
        if _is_empty(text_pairs):
            return []
        reranker = await self._core.aget(self._settings())
        scores: list[float] = (await reranker.ascore(text_pairs)).tolist()
        return scores


def _is_empty(pairs: Iterable[object]) -> bool:
    return isinstance(pairs, Sized) and len(pairs) == 0  # an array has no truth value

"""Order the hits of searches with a reranker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from quernstone.types import RankedDocument
from quernstone_qdrant.embedders import TextReranker
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import Question


def rerank_all(
    reranker: TextReranker, questions: Sequence[Question], found: Sequence[list[SearchHit]]
) -> list[list[SearchHit]]:
    """Return the best hits of each question; a reranker that takes several shares batches."""
    asked = [(one, hits) for one, hits in zip(questions, found, strict=True) if hits]
    rerank_many = getattr(reranker, "rerank_many", None)
    if len(asked) > 1 and rerank_many is not None:
        first = asked[0][0]  # all have its limit and instruction
        texts = [[hit.text for hit in hits] for _, hits in asked]
        queries = [one.query for one, _ in asked]
        ranked = iter(rerank_many(queries, texts, first.limit, first.instruction))
    else:
        ranked = (
            reranker.rerank(one.query, [hit.text for hit in hits], one.limit, one.instruction)
            for one, hits in asked
        )
    return [_ordered(hits, next(ranked)) if hits else [] for hits in found]


async def arerank_all(
    reranker: TextReranker, questions: Sequence[Question], found: Sequence[list[SearchHit]]
) -> list[list[SearchHit]]:
    """Like `rerank_all`, without blocking the event loop; concurrent calls share batches."""

    async def rerank(one: Question, hits: list[SearchHit]) -> list[SearchHit]:
        if not hits:
            return []
        texts = [hit.text for hit in hits]
        return _ordered(hits, await reranker.arerank(one.query, texts, one.limit, one.instruction))

    return await asyncio.gather(*map(rerank, questions, found))


def _ordered(hits: list[SearchHit], ranked: list[RankedDocument]) -> list[SearchHit]:
    return [replace(hits[each.index], rerank_score=each.score) for each in ranked]

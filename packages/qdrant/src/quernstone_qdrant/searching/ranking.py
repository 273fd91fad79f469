"""Order the hits of searches with a reranker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from quernstone.types import RankedDocument
from quernstone_qdrant.embedders import TextReranker
from quernstone_qdrant.searching.feedback import examples_of, merged
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import Question


def rerank_all(
    reranker: TextReranker,
    questions: Sequence[Question],
    found: Sequence[list[SearchHit]],
    top_n: int | None,
) -> list[list[SearchHit]]:
    """Return the best `top_n` hits of each question, or all, ordered by the reranker.

    A reranker that takes several queries shares batches.
    """
    asked = [(one, hits) for one, hits in zip(questions, found, strict=True) if hits]
    rerank_many = getattr(reranker, "rerank_many", None)
    if len(asked) > 1 and rerank_many is not None:
        first = asked[0][0]  # all have its instruction
        texts = [[hit.text for hit in hits] for _, hits in asked]
        queries = [one.query for one, _ in asked]
        ranked = iter(rerank_many(queries, texts, top_n, first.instruction))
    else:
        ranked = (
            reranker.rerank(one.query, [hit.text for hit in hits], top_n, one.instruction)
            for one, hits in asked
        )
    return [_ordered(hits, next(ranked)) if hits else [] for hits in found]


async def arerank_all(
    reranker: TextReranker,
    questions: Sequence[Question],
    found: Sequence[list[SearchHit]],
    top_n: int | None,
) -> list[list[SearchHit]]:
    """Like `rerank_all`, without blocking the event loop; concurrent calls share batches."""

    async def rerank(one: Question, hits: list[SearchHit]) -> list[SearchHit]:
        if not hits:
            return []
        texts = [hit.text for hit in hits]
        return _ordered(hits, await reranker.arerank(one.query, texts, top_n, one.instruction))

    return await asyncio.gather(*map(rerank, questions, found))


def _ordered(hits: list[SearchHit], ranked: list[RankedDocument]) -> list[SearchHit]:
    return [replace(hits[each.index], rerank_score=each.score) for each in ranked]


def _capped(hits: Sequence[SearchHit], question: Question) -> list[SearchHit]:
    """Return the best hits, at most `limit`, of each group at most as many as allowed."""
    size = question.per_document or question.group_size or 1
    counts: Counter[str | int] = Counter()
    kept = []
    for hit in hits:
        if hit.group is not None:
            counts[hit.group] += 1
            if counts[hit.group] > size:
                continue
        kept.append(hit)
    return kept[: question.limit]


def with_examples(
    questions: Sequence[Question], ranked: Sequence[Sequence[SearchHit]]
) -> list[Question]:
    """Return the questions of the second search of relevance feedback."""
    return [
        replace(question, examples=examples_of(hits))
        for question, hits in zip(questions, ranked, strict=True)
    ]


def merged_all(
    questions: Sequence[Question],
    seeds: Sequence[list[SearchHit]],
    others: Sequence[list[SearchHit]],
) -> list[list[SearchHit]]:
    """Return the best hits of both searches of relevance feedback."""
    return [
        _capped(merged(first, second), question)
        for question, first, second in zip(questions, seeds, others, strict=True)
    ]

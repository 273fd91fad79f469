"""Relevance feedback: a reranker scores the first hits, and a second search follows its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quernstone.errors import ConfigError
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.targets.requests import FeedbackExample


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Settings of relevance feedback, as of `NaiveFeedbackStrategyParams` of `qdrant_client`.

    The reranker scores the best `seeds` hits. The second search ranks a document x by
    `a` * sim(query, x) + the sum, over all pairs of seeds, of d**`b` * `c` * (sim(better, x) -
    sim(worse, x)), where d is the difference of their scores.

    Fit the weights to your documents, embedder and reranker with the package
    `qdrant-relevance-feedback`. With other weights, results are arbitrary.

    Args:
        a: Weight of the similarity to the query.
        b: Exponent of the difference of two scores.
        c: Weight of the pairs.
        seeds: Number of hits that the reranker scores first; four or five are usually enough.

    Raises:
        ConfigError: A weight is not a finite number, or `seeds` is below 2.
    """

    a: float
    b: float
    c: float
    seeds: int = 5

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise ConfigError(f"`{name}` is {value!r}; it must be a finite number")
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < 2:
            raise ConfigError(f"`seeds` is {self.seeds!r}; it must be a whole number, at least 2")


def examples_of(ranked: Sequence[SearchHit]) -> tuple[FeedbackExample, ...]:
    """Return hits that a reranker scored as examples for a second search."""
    return tuple(
        FeedbackExample(id=hit.id, score=hit.rerank_score)
        for hit in ranked
        if hit.rerank_score is not None
    )


def merged(seeds: Sequence[SearchHit], others: Sequence[SearchHit]) -> list[SearchHit]:
    """Return the reranked hits of both searches, best first.

    The seeds have the ranks from 1, and the hits of the second search those after them.
    """
    moved = [replace(hit, retrieval_rank=hit.retrieval_rank + len(seeds)) for hit in others]
    return sorted([*seeds, *moved], key=lambda hit: -(hit.rerank_score or 0.0))

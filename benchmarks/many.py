"""Compare many queries against shared documents with one query with as many pairs."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders import OURS, Setup
from benchmarks.embedding import token_counts
from benchmarks.texts import docstrings, queries
from benchmarks.timing import Result, TimedSide, compare
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, render_pair

QUERIES = 20
DOCUMENTS = 20
EXPECTED = 1.0
"""`rerank_many` should be at least as fast per pair as one query."""


def run(setup: Setup, documents: int | None) -> Result:
    """Rerank 20 queries x 20 documents, and one query x 400 documents, in one process.

    The 400 documents are numbered copies of the 20, so pairs have as many tokens. Each run has new
    queries, so that no prefix is already computed.
    """
    count = documents or DOCUMENTS
    few = docstrings(count, seed=2)
    many = [f"{text} {copy}" for copy in range(QUERIES) for text in few]
    trial, *asked = queries(1 + (QUERIES + 1) * setup.repeats)
    alone, together = asked[: setup.repeats], asked[setup.repeats :]
    groups = [together[at : at + QUERIES] for at in range(0, len(together), QUERIES)]
    tokens = [
        token_counts(
            setup.checkpoint("Reranking"),
            [render_pair(query, text, DEFAULT_INSTRUCTION) for query in some for text in texts],
        )
        for some, texts in ((groups[0], few), (alone[:1], many))
    ]
    with OURS.start("Reranking", setup) as ours:
        [scores], expected = ours.get("many", [trial], few), ours.get("score", trial, few)
        difference = np.abs(np.subtract(scores, expected)).max()
        one, several = iter(alone), iter(groups)
        return compare(
            f"Reranking {QUERIES * count} pairs, {setup}",
            [
                TimedSide(
                    f"rerank_many, {QUERIES} queries x {count} documents",
                    lambda: ours.run("many", next(several), few),
                ),
                TimedSide(
                    f"rerank, one query x {QUERIES * count} documents",
                    lambda: ours.run("score", next(one), many),
                    EXPECTED,
                ),
            ],
            unit="pairs",
            amount=QUERIES * count,
            repeats=setup.repeats,
            notes=[
                f"tokens a pair: {np.mean(tokens[0]):.0f} and {np.mean(tokens[1]):.0f}",
                f"a score of `rerank_many` differs from `score` by up to {difference:.4f}",
            ],
        )

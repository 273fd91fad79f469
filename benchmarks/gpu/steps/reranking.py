"""Documents per second of reranking, by the number of documents that share a query."""

from __future__ import annotations

from itertools import count

from benchmarks.gpu.inputs import QUERY, texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import seconds
from quernstone import Reranker

_PER_QUERY = (1000, 20, 1)


def run(run: Run) -> None:
    """Measure with one query for all documents, for 20 of them, and for each; then unshared."""
    documents = texts(run.size(1000, 6), range(50, run.size(250, 80)))
    for sharing in (True, False):
        with (
            run.part(f"prefix_sharing={sharing}"),
            Reranker(
                run.checkpoint("reranker"),
                device=run.device,
                dtype="bfloat16",
                prefix_sharing=sharing,
            ) as reranker,
        ):
            for per_query in _PER_QUERY if sharing else _PER_QUERY[:1]:
                _measure(run, reranker, documents, per_query, sharing=sharing)


def _measure(
    run: Run, reranker: Reranker, documents: list[str], per_query: int, *, sharing: bool
) -> None:
    calls = count()

    def score() -> None:
        # queries of an earlier call are known, so each call has others
        call = next(calls)
        reranker.score(
            [
                (f"{QUERY} {call} {place // per_query}", document)
                for place, document in enumerate(documents)
            ]
        )

    before = reranker.usage.tokens
    score()
    tokens = reranker.usage.tokens - before
    took = seconds(run, score)
    run.figure(
        f"up to {per_query} documents per query, prefix_sharing={sharing}",
        documents_per_s=len(documents) / took,
        tokens_per_s=tokens / took,
        seconds=took,
    )

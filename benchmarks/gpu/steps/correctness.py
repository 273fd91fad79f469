"""Embeddings and scores against transformers in float32, on the same device."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from benchmarks.gpu import internals
from benchmarks.gpu.inputs import QUERY, texts
from benchmarks.gpu.run import Run
from quernstone import Embedder, Reranker
from quernstone.types import Dtype

_GRAPH_TOLERANCE = 1e-5
"""Largest allowed cosine distance of a query in a CUDA graph from transformers."""


def run(run: Run) -> None:
    """Compare in float32 and in bfloat16.

    In bfloat16 the bound is one and a half times the error of transformers' own bfloat16.
    """
    warnings = _Warnings()
    documents = texts(run.size(60, 8), range(1, run.size(300, 60)))
    queries = texts(6, range(2, 12), seed=1)
    pairs = [(f"{QUERY} {n % 2}", document) for n, document in enumerate(documents)]
    embedding, reranker = run.checkpoint("embedding"), run.checkpoint("reranker")
    like: dict[str, Any] = {"device": run.device, "engine": "transformers"}
    with Embedder(embedding, dtype="float32", **like) as exact:
        vectors, query_vectors = exact.embed_documents(documents), exact.embed_queries(queries)
    with Embedder(embedding, dtype="bfloat16", **like) as rounded:
        their_cosine = _least_cosine(rounded.embed_documents(documents), vectors)
    with Reranker(reranker, dtype="float32", **like) as exact:
        scores = exact.score(pairs)
    with Reranker(reranker, dtype="bfloat16", **like) as rounded:
        their_error = float(np.abs(rounded.score(pairs) - scores).max())
    spread = float(scores.max() - scores.min())
    run.figure(
        "transformers in bfloat16", cosine=their_cosine, score_error=their_error, spread=spread
    )
    bounds: dict[Dtype, tuple[float, float]] = {
        "float32": (5e-6, 2e-5),
        "bfloat16": (1.5 * (1 - their_cosine) + 1e-4, 1.5 * their_error + 1e-3),
    }
    for dtype, (cosine_bound, score_bound) in bounds.items():
        with run.part(f"embeddings in {dtype}"):
            _embeddings(run, dtype, documents, vectors, queries, query_vectors, cosine_bound)
        for sharing in (True, False):
            name = f"scores in {dtype}, prefix_sharing={sharing}"
            with (
                run.part(name),
                Reranker(reranker, device=run.device, dtype=dtype, prefix_sharing=sharing) as ours,
            ):
                error = float(np.abs(ours.score(pairs) - scores).max())
                run.check(name, error <= score_bound, error=error, bound=score_bound)
    run.check("no warnings", not warnings.lines, lines=sorted(set(warnings.lines)))


def _embeddings(
    run: Run,
    dtype: Dtype,
    documents: list[str],
    vectors: np.ndarray,
    queries: list[str],
    query_vectors: np.ndarray,
    bound: float,
) -> None:
    start = time.perf_counter()
    with Embedder(run.checkpoint("embedding"), device=run.device, dtype=dtype) as ours:
        loaded = time.perf_counter()
        found = ours.embed_documents(documents)
        embedded = time.perf_counter()
        cosine = _least_cosine(found, vectors)
        run.check(
            f"embeddings in {dtype}",
            1 - cosine <= bound,
            cosine=cosine,
            attention=ours.info.attention,
            max_batch_tokens=ours.info.max_batch_tokens,
            load_s=loaded - start,
            first_call_s=embedded - loaded,
        )
        graphs = internals.record_graphs(ours)
        start = time.perf_counter()
        cosine = _least_cosine(
            np.stack([ours.embed_query(each) for each in queries]), query_vectors
        )
        run.check(
            f"queries in {dtype}",
            1 - cosine <= max(bound, _GRAPH_TOLERANCE),
            cosine=cosine,
            graphs=graphs,
            recorded_s=start - embedded,
            first_queries_s=time.perf_counter() - start,
        )
        finite = bool(np.isfinite(found).all()) and ours.usage.recomputed == 0
        run.check(f"finite in {dtype}", finite, recomputed=ours.usage.recomputed)


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.astype(np.float64) * b.astype(np.float64)).sum(1).min())


class _Warnings(logging.Handler):
    """Collects the warnings of this project and of torch's compiler."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        for name in ("quernstone", "torch._dynamo"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.lines.append(record.getMessage()[:300])

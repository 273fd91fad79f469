"""Latency of short calls, with and without CUDA graphs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import count
from unittest.mock import patch

import numpy as np

from benchmarks.gpu import internals
from benchmarks.gpu.inputs import QUERY, texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import seconds, synchronize
from quernstone import Embedder, Reranker

_BUDGETS = {"with graphs": 16384, "without graphs": 16385}
"""Models of equal settings are shared in a process, so the settings differ a little."""


def run(run: Run) -> None:
    """Measure one query, 64 queries, and 20 documents to rerank."""
    for name, budget in _BUDGETS.items():
        with (
            internals.without_graphs() if name == "without graphs" else nullcontext(),
            run.part(name),
        ):
            _embed(run, name, budget)
            _rerank(run, name, budget)
    with internals.without_graphs(), run.part("starting a batch"):
        _start(run)
    if not run.cuda:
        run.needs_gpu("CUDA graphs")


def _embed(run: Run, name: str, budget: int) -> None:
    with Embedder(
        run.checkpoint("embedding"), device=run.device, dtype="bfloat16", max_batch_tokens=budget
    ) as embedder:
        graphs = internals.record_graphs(embedder)
        warm_up = run.size(10, 2)
        times = []
        for query in texts(run.size(60, 8), range(5, 10), seed=2):
            start = time.perf_counter()
            embedder.embed_query(query)
            times.append((time.perf_counter() - start) * 1e3)
        p50, p95 = np.percentile(times[warm_up:], [50, 95])
        run.figure(
            f"one query, {name}",
            p50_ms=p50,
            p95_ms=p95,
            slowest_ms=max(times),
            graphs=graphs,
        )
        queries = texts(run.size(64, 8), 8)
        took = seconds(run, lambda: embedder.embed_queries(queries), 5)
        run.figure(f"{len(queries)} queries at once, {name}", ms=took * 1e3)


def _rerank(run: Run, name: str, budget: int) -> None:
    documents = texts(run.size(20, 4), run.size(150, 20))
    with Reranker(
        run.checkpoint("reranker"), device=run.device, dtype="bfloat16", max_batch_tokens=budget
    ) as reranker:
        internals.record_graphs(reranker)
        numbers = count()
        took = seconds(run, lambda: reranker.rerank(f"{QUERY} {next(numbers)}", documents), 10)
        run.figure(f"rerank {len(documents)} documents, {name}", ms=took * 1e3)


def _start(run: Run) -> None:
    """Time what the host needs to start a batch without a graph, of a size that ends at once."""
    from quernstone.kernels.compiled import Kernel  # needs Triton

    with Embedder(run.checkpoint("embedding"), device=run.device, dtype="bfloat16") as embedder:
        sequences = internals.tokenize(embedder, texts(4, 8))
        for name, directly in (("directly", True), ("by Triton", False)):
            with patch.object(Kernel, "starts_directly", directly):
                times = []
                for _ in range(20):
                    synchronize(run)
                    start = time.perf_counter()
                    internals.launch(embedder, sequences)
                    times.append((time.perf_counter() - start) * 1e3)
            run.figure(f"starting a batch, kernels {name}", ms=float(np.median(times[5:])))

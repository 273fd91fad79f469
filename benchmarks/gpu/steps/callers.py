"""Queries per second of callers that each ask one query after another."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.gpu import internals
from benchmarks.gpu.inputs import texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import seconds
from quernstone import Embedder

_CALLERS = (1, 16, 64)
_SECONDS = 3.0
_DRY_SECONDS = 0.2


def run(run: Run) -> None:
    """Measure 1, 16 and 64 callers, and all queries in one call."""
    queries = texts(run.size(4000, 50), range(5, 10), seed=2)
    with Embedder(run.checkpoint("embedding"), device=run.device, dtype="bfloat16") as embedder:
        embedder.embed_queries(queries[:64])
        run.figure("CUDA graphs", graphs=internals.record_graphs(embedder))
        for callers in _CALLERS:
            with run.part(f"{callers} callers"):
                _measure(run, embedder, queries, callers)
        took = seconds(run, lambda: embedder.embed_queries(queries), 1)
        run.figure(f"{len(queries)} queries in one call", queries_per_s=len(queries) / took)


def _measure(run: Run, embedder: Embedder, queries: list[str], callers: int) -> None:
    start = time.perf_counter()
    end = start + (_DRY_SECONDS if run.settings.dry_run else _SECONDS)

    def ask(place: int) -> list[float]:
        times = []
        while (now := time.perf_counter()) < end:
            embedder.embed_query(queries[place % len(queries)])
            times.append(time.perf_counter() - now)
            place += callers
        return times

    with ThreadPoolExecutor(callers) as pool:
        times = [each for found in pool.map(ask, range(callers)) for each in found]
    p50, p95 = np.percentile(times, [50, 95]) * 1e3
    run.figure(
        f"{callers} callers",
        queries_per_s=len(times) / (time.perf_counter() - start),
        p50_ms=p50,
        p95_ms=p95,
    )

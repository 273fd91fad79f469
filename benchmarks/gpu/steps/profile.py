"""Time of one batch by kernel, and the calls that wait for the device."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import internals
from benchmarks.gpu.inputs import QUERY, texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import synchronize
from quernstone import Embedder, Reranker

_KERNELS = 14


def run(run: Run) -> None:
    """Profile a batch of documents and the documents of one query."""
    words = run.size(400, 40)
    with (
        run.part("embedding"),
        Embedder(run.checkpoint("embedding"), device=run.device, dtype="bfloat16") as embedder,
    ):
        sequences = internals.tokenize(embedder, texts(run.size(128, 4), words))
        _profile(run, "embedding", lambda: internals.run_tokens(embedder, sequences))
    with (
        run.part("reranking"),
        Reranker(run.checkpoint("reranker"), device=run.device, dtype="bfloat16") as reranker,
    ):
        pairs = [(QUERY, document) for document in texts(run.size(250, 4), run.size(150, 20))]
        _profile(run, "reranking", lambda: reranker.score(pairs))


def _profile(run: Run, name: str, call: Callable[[], object]) -> None:
    call()
    if run.cuda:
        waits = _waits(call)
        run.figure(f"{name}: calls that wait", count=waits.total(), at=dict(waits.most_common(5)))
    else:
        run.needs_gpu(f"{name}: calls that wait")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.cuda else [])]
    # The model runs in a thread of its own. The kernels of a GPU are recorded from all threads.
    all_threads = None if run.cuda else _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=activities, experimental_config=all_threads) as recorded:
        start = time.perf_counter()
        call()
        synchronize(run)
        wall = time.perf_counter() - start
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in recorded.events():
        if run.cuda and "CUDA" not in str(event.device_type):
            continue
        spent = event.self_device_time_total if run.cuda else event.self_cpu_time_total
        kernel = event.name[:70]
        times[kernel] += spent
        calls[kernel] += 1
    run.check(
        f"{name}: one batch",
        calls.total() > 0,
        wall_ms=wall * 1e3,
        device_ms=times.total() / 1e3,
        kernels=calls.total(),
    )
    for kernel, spent in times.most_common(_KERNELS):
        run.figure(f"{name}: {kernel}", ms=spent / 1e3, calls=calls[kernel])


def _waits(call: Callable[[], object]) -> Counter[str]:
    """Count the lines that wait for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if "synchroniz" in str(each.message)
    )

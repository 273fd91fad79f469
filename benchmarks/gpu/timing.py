"""Timing on the host and on the device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.inputs import flops_per_token
from benchmarks.gpu.run import Run


def synchronize(run: Run) -> None:
    """Wait until the device has done everything."""
    if run.cuda:
        torch.cuda.synchronize()


def seconds(run: Run, call: Callable[[], object], repeats: int = 3) -> float:
    """Return the median time of a call on the host's clock, after one call to warm up."""
    call()
    times = []
    for _ in range(run.size(repeats, 1)):
        synchronize(run)
        start = time.perf_counter()
        call()
        synchronize(run)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def device_seconds(run: Run, call: Callable[[], object], repeats: int = 20) -> float:
    """Return the median time of a call on the device's clock; on a CPU, on the host's."""
    if not run.cuda:
        return seconds(run, call, repeats)
    for _ in range(3):
        call()
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    for first, last in events:
        first.record()
        call()
        last.record()
    torch.cuda.synchronize()
    times = [float(first.elapsed_time(last)) for first, last in events]
    return statistics.median(times) / 1e3


def report_rate(
    run: Run, name: str, call: Callable[[], object], *, tokens: int, repeats: int = 3
) -> float:
    """Measure tokens per second of a call that runs the 0.6B model, report and return it.

    The share of the rate of matrix products is reported too if the step `rates` has measured it.
    """
    took = seconds(run, call, repeats)
    figures = {"tokens_per_s": tokens / took, "seconds": took}
    matrix_rate = 1e12 * run.earlier_figure("rates", "bfloat16 matrix product", "tflops")
    if math.isfinite(matrix_rate):
        operations = flops_per_token(run.checkpoint("embedding")) * tokens
        figures["share_of_matrix_rate"] = operations / took / matrix_rate
    run.figure(name, **figures)
    return figures["tokens_per_s"]

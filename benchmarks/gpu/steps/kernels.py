"""Correctness and speed of the varlen kernels that the engine could use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu import reference
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import device_seconds, synchronize
from quernstone.attention.flash import KERNELS, TRITON

Kernel = Callable[..., tuple[Tensor, Tensor]]
"""(q, k, v, cu_q, cu_k, max_q, max_k, *, causal) -> result, log-sum-exp (tokens, heads)."""

Bounds = list[int]
Arranged = tuple[Tensor, Tensor, Tensor, Bounds, Bounds, bool]
Arrange = Callable[[Tensor, Tensor, Tensor, Bounds], Arranged]
"""Queries, keys, values and the bounds of their sequences -> the arguments of a kernel."""

_PREFIX = 64
_SEQUENCES, _TOKENS = 128, 512
_TOLERANCE, _LSE_TOLERANCE = 1e-2, 2e-2
_PADDED = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)


@torch.inference_mode()
def run(run: Run) -> None:
    """Compare the kernels that are installed with float64, and time them."""
    times: dict[str, float] = {}
    for name, kernel in _candidates(run).items():
        if kernel is None:
            run.figure(name, installed=False)
            continue
        for case, arrange in _CASES.items():
            with run.part(f"{name}, {case}"):
                error, lse_error = _errors(run, kernel, arrange)
                passed = error < _TOLERANCE and lse_error < _LSE_TOLERANCE
                run.check(f"{name}, {case}", passed, relative_error=error, lse_error=lse_error)
        if run.cuda:
            with run.part(f"{name}, timing"):
                times[name] = _time(run, name, kernel)
    if not run.cuda:
        run.needs_gpu("flash kernels")
        return
    own = times.pop(TRITON.name, math.nan)
    if times:
        fastest = min(times, key=times.__getitem__)
        run.figure("triton, rate", of=fastest, share=times[fastest] / own)
    for backend in _PADDED:
        with run.part(f"padded attention, {backend.name}"):
            _time_padded(run, backend)


def _candidates(run: Run) -> dict[str, Kernel | None]:
    if not run.cuda:
        return {"reference": _reference}  # so that a dry run on a CPU runs the comparison
    capability, _ = torch.cuda.get_device_capability()
    found: dict[str, Kernel | None] = {}
    for each in (*KERNELS, TRITON):
        if not each.capabilities or capability in each.capabilities:
            try:
                found[each.name] = each.load()
            except (ImportError, AttributeError):
                found[each.name] = None
    return found


def _reference(*packed: Any, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v, cu_q, cu_k, *_ = packed
    return reference.attention(q, k, v, cu_q.tolist(), cu_k.tolist(), causal=causal)


def _errors(run: Run, kernel: Kernel, arrange: Arrange) -> tuple[float, float]:
    """Return the largest relative error of a case and the largest error of its log-sum-exp."""
    errors = []
    for lengths in reference.batches(run):
        bounds = list(accumulate(lengths, initial=0))
        q, k, v, *both, causal = arrange(
            *reference.random_qkv(bounds[-1], run.device, torch.bfloat16), bounds
        )
        longest = [int(np.diff(each).max()) for each in both]
        out, lse = kernel(
            q, k, v, *(_integers(run, each) for each in both), *longest, causal=causal
        )
        expected, expected_lse = reference.attention(q, k, v, *both, causal=causal)
        lse_error = float((lse.double() - expected_lse).abs().max())
        errors.append((reference.relative_error(out, expected), lse_error))
    worst, worst_lse = (max(each) for each in zip(*errors, strict=True))
    return worst, worst_lse


def _causal(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Arranged:
    return q, k, v, bounds, bounds, True


def _last_tokens(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Arranged:
    return _last(q, bounds), k, v, list(range(len(bounds))), bounds, False


def _prefix(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Arranged:
    size = min(_PREFIX, bounds[-1])
    return q, k[:size], v[:size], [0, bounds[-1]], [0, size], False


def _prefix_of_last_tokens(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Arranged:
    return _last(q, bounds), k, v, [0, len(bounds) - 1], [0, bounds[-1]], False


def _last(q: Tensor, bounds: Bounds) -> Tensor:
    return q[torch.tensor(bounds[1:], device=q.device) - 1]


_CASES: dict[str, Arrange] = {
    "causal": _causal,
    "last tokens": _last_tokens,
    "a shared prefix": _prefix,
    "a shared prefix of last tokens": _prefix_of_last_tokens,
}


def _time(run: Run, name: str, kernel: Kernel) -> float:
    """Time a kernel, and return the seconds of a large causal call."""
    q, k, v = reference.random_qkv(_SEQUENCES * _TOKENS, run.device, torch.bfloat16)
    cu = _integers(run, list(range(0, len(q) + 1, _TOKENS)))
    whole = device_seconds(run, partial(kernel, q, k, v, cu, cu, _TOKENS, _TOKENS, causal=True))
    scores = _SEQUENCES * _TOKENS * (_TOKENS + 1) / 2
    operations = 4 * reference.HEAD_DIM * reference.HEADS * scores
    run.figure(
        f"{name}, {_SEQUENCES} x {_TOKENS} tokens", ms=whole * 1e3, tflops=operations / whole / 1e12
    )
    # graphs are recorded for a longest sequence that few batches have
    short, count = 16, 64
    cu = _integers(run, list(range(0, count * short + 1, short)))
    part = [x[: count * short] for x in (q, k, v)]
    for bound in (short, 512, 8192):
        took = device_seconds(run, partial(kernel, *part, cu, cu, bound, bound, causal=True))
        run.figure(f"{name}, {count} x {short} tokens, max_seqlen={bound}", us=took * 1e6)
    synchronize(run)
    start = time.perf_counter()
    for _ in range(100):
        kernel(*part, cu, cu, short, short, causal=True)
    run.figure(f"{name}, host time of a call", us=(time.perf_counter() - start) * 1e4)
    synchronize(run)
    return whole


def _time_padded(run: Run, backend: SDPBackend) -> None:
    """Time torch's attention over equally long sequences, which need no mask."""
    heads = (reference.HEADS, reference.KV_HEADS, reference.KV_HEADS)
    q, k, v = (
        torch.randn(_SEQUENCES, n, _TOKENS, reference.HEAD_DIM, device=run.device).bfloat16()
        for n in heads
    )
    with sdpa_kernel(backend):
        took = device_seconds(
            run,
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        )
    run.figure(f"padded attention, {backend.name}, {_SEQUENCES} x {_TOKENS} tokens", ms=took * 1e3)


def _integers(run: Run, values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=run.device)

"""Varlen kernels that the engine could use: whether they are right, and how fast they are."""

from __future__ import annotations

import importlib
import importlib.util
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

Kernel = Callable[..., tuple[Tensor, Tensor]]
"""(q, k, v, cu_q, cu_k, max_q, max_k, *, causal) -> result, log-sum-exp (tokens, heads)."""

_PREFIX = 64
_SEQUENCES, _TOKENS = 128, 512
_TOLERANCE, _LSE_TOLERANCE = 1e-2, 2e-2
_PADDED = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)


@torch.inference_mode()
def run(run: Run) -> None:
    """Compare the kernels that are installed with float64, and time them."""
    for name, kernel in _candidates(run).items():
        if kernel is None:
            run.figure(name, installed=False)
            continue
        with run.part(name):
            for case, (error, lse_error) in _errors(run, kernel).items():
                passed = error < _TOLERANCE and lse_error < _LSE_TOLERANCE
                run.check(f"{name}, {case}", passed, relative_error=error, lse_error=lse_error)
            if run.cuda:
                _time(run, name, kernel)
    if not run.cuda:
        run.needs_gpu("flash kernels")
        return
    for backend in _PADDED:
        with run.part(f"padded attention, {backend.name}"):
            _time_padded(run, backend)


def _candidates(run: Run) -> dict[str, Kernel | None]:
    if not run.cuda:
        return {"reference": _reference}  # so that a dry run on a CPU runs the comparison
    return {
        "torch": _torch_kernel,
        "flash-attn": _kernel_of("flash_attn"),
        "FlashAttention 3": _kernel_of("fa3_fwd_interface"),
    }


def _torch_kernel(*packed: Any, causal: bool) -> tuple[Tensor, Tensor]:
    """The operation below `torch.nn.attention.varlen.varlen_attn`, the same in all versions."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(*packed, 0.0, causal, False)
    return out, lse.transpose(0, 1)


def _kernel_of(module: str) -> Kernel | None:
    """The kernel of a package with the interface of flash-attn; None if it is not installed."""
    if importlib.util.find_spec(module) is None:
        return None
    flash = importlib.import_module(module).flash_attn_varlen_func

    def kernel(*packed: Any, causal: bool) -> tuple[Tensor, Tensor]:
        out, lse, *_ = flash(*packed, causal=causal, return_attn_probs=True)
        return out, lse.transpose(0, 1)

    return kernel


def _reference(*packed: Any, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v, cu_q, cu_k, *_ = packed
    return reference.attention(q, k, v, cu_q.tolist(), cu_k.tolist(), causal=causal)


def _errors(run: Run, kernel: Kernel) -> dict[str, tuple[float, float]]:
    """Return the largest relative error and the largest error of the log-sum-exp of each case."""
    worst: dict[str, tuple[float, float]] = {}
    for lengths in reference.batches(run):
        bounds = list(accumulate(lengths, initial=0))
        q, k, v = reference.random_qkv(bounds[-1], run.device, torch.bfloat16)
        last = q[torch.tensor(bounds[1:], device=run.device) - 1]
        ones, whole = list(range(len(bounds))), [0, bounds[-1]]
        prefix = min(_PREFIX, bounds[-1])
        cases = {
            "causal": (q, k, v, bounds, bounds, True),
            "last tokens": (last, k, v, ones, bounds, False),
            "a shared prefix": (q, k[:prefix], v[:prefix], whole, [0, prefix], False),
            "a shared prefix of last tokens": (last, k, v, [0, len(lengths)], whole, False),
        }
        for case, (a, b, c, bounds_q, bounds_k, causal) in cases.items():
            cu = [_integers(run, each) for each in (bounds_q, bounds_k)]
            longest = [int(np.diff(each).max()) for each in (bounds_q, bounds_k)]
            out, lse = kernel(a, b, c, *cu, *longest, causal=causal)
            expected = reference.attention(a, b, c, bounds_q, bounds_k, causal=causal)
            found = (
                reference.relative_error(out, expected[0]),
                float((lse.double() - expected[1]).abs().max()),
            )
            error, lse_error = worst.get(case, (0.0, 0.0))
            worst[case] = (max(error, found[0]), max(lse_error, found[1]))
    return worst


def _time(run: Run, name: str, kernel: Kernel) -> None:
    q, k, v = reference.random_qkv(_SEQUENCES * _TOKENS, run.device, torch.bfloat16)
    cu = _integers(run, list(range(0, len(q) + 1, _TOKENS)))
    took = device_seconds(run, partial(kernel, q, k, v, cu, cu, _TOKENS, _TOKENS, causal=True))
    scores = _SEQUENCES * _TOKENS * (_TOKENS + 1) / 2
    operations = 4 * reference.HEAD_DIM * reference.HEADS * scores
    run.figure(
        f"{name}, {_SEQUENCES} x {_TOKENS} tokens", ms=took * 1e3, tflops=operations / took / 1e12
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

"""The steps between the matrix products of a layer: compiled against operation by operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from benchmarks.gpu import reference
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import device_seconds
from quernstone.attention.base import merge
from quernstone.qwen3.elementwise import Elementwise, compile_steps

_EPS = 1e-6
_INNER = 3072
_HEADS = reference.HEADS + reference.KV_HEADS
_TOLERANCE = 3e-3
_REPEATS = 5


def run(run: Run) -> None:
    """Time the steps of the 0.6B model, and compare both ways of computing them."""
    tokens = run.size(65536, 64)
    plain = Elementwise(_EPS)
    steps = Elementwise(_EPS, torch.bfloat16 if run.cuda else None)
    if run.cuda:
        start = time.perf_counter()
        shape = SimpleNamespace(
            num_attention_heads=reference.HEADS,
            num_key_value_heads=reference.KV_HEADS,
            head_dim=reference.HEAD_DIM,
            intermediate_size=_INNER,
        )
        device = torch.device(run.device)
        compile_steps(steps, shape, device, torch.bfloat16, fp8=True)  # type: ignore[arg-type]
        run.figure("compiling all steps", seconds=time.perf_counter() - start)
    else:
        run.needs_gpu("compiling all steps")
    # outside inference mode, because torch compiles another kernel for weights created in it
    weight = torch.randn(_HEADS, reference.HEAD_DIM, device=run.device).bfloat16()
    with torch.inference_mode():
        inputs = _Inputs(run, tokens, weight)
        by_operation, compiled = inputs.calls(plain), inputs.calls(steps)
        for name, call in by_operation.items():
            with run.part(name):
                expected = call()
                if run.cuda:
                    error = max(map(reference.relative_error, compiled[name](), expected))
                    run.check(f"{name}, compiled", error < _TOLERANCE, relative_error=error)
                _time(run, f"{name}, by operation", call, inputs.gigabytes[name])
                if run.cuda:
                    _time(run, f"{name}, compiled", compiled[name], inputs.gigabytes[name])
        with run.part("merge"):
            _time(run, "merge, by operation", inputs.merge, tokens * 2048 * 6 / 1e9)


class _Inputs:
    """Random inputs of the steps, and the gigabytes that each reads and writes at least."""

    def __init__(self, run: Run, tokens: int, weight: torch.Tensor) -> None:
        dim = reference.HEAD_DIM
        qkv = torch.randn(tokens, _HEADS + reference.KV_HEADS, dim, device=run.device).bfloat16()
        self._qk, self._weight = qkv[:, :_HEADS], weight
        self._rope = torch.randn(tokens, 1, dim // 2, 2, device=run.device)
        self._gate_up = torch.randn(tokens, 2 * _INNER, device=run.device).bfloat16()
        self._inner = self._gate_up[:, :_INNER].contiguous()
        shape = (tokens, reference.HEADS, dim)
        self._a, self._b = (torch.randn(shape, device=run.device).bfloat16() for _ in "ab")
        self._lse = torch.randn(reference.HEADS, tokens, device=run.device)
        self.gigabytes = {
            "norm and rotate": tokens * _HEADS * dim * 4 / 1e9,
            "SiLU and multiply": tokens * _INNER * 6 / 1e9,
            "round to fp8": tokens * _INNER * 3 / 1e9,
        }

    def calls(self, steps: Elementwise) -> dict[str, Callable[[], tuple[torch.Tensor, ...]]]:
        """Return the calls of `steps`, each with a tuple of results."""
        return {
            "norm and rotate": lambda: (steps.norm_and_rotate(self._qk, self._weight, self._rope),),
            "SiLU and multiply": lambda: (steps.silu_and_multiply(self._gate_up),),
            "round to fp8": lambda: steps.round_to_fp8(self._inner),
        }

    def merge(self) -> torch.Tensor:
        """Merge attention over a prefix with attention over the sequence's own keys."""
        return merge(self._a, self._lse.T, self._b, self._lse.T)


def _time(run: Run, name: str, call: Callable[[], object], gigabytes: float) -> None:
    took = device_seconds(run, call, _REPEATS)
    run.figure(name, ms=took * 1e3, gb_per_s=gigabytes / took)

"""The steps between the matrix products of a layer: Triton kernels against torch operations."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import reference
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import device_seconds
from quernstone import kernels
from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.kernels.ops import DEFINITIONS
from quernstone.qwen3.elementwise import choose_elementwise

_EPS = 1e-6
_HIDDEN, _INNER = 1024, 3072
_HEADS = reference.HEADS + reference.KV_HEADS
_MODEL = ModelConfig(
    vocab_size=151669,
    hidden_size=_HIDDEN,
    intermediate_size=_INNER,
    num_hidden_layers=28,
    num_attention_heads=reference.HEADS,
    num_key_value_heads=reference.KV_HEADS,
    head_dim=reference.HEAD_DIM,
    rms_norm_eps=_EPS,
    rope={"rope_theta": 1e6},
    qk_norm=True,
    qkv_bias=False,
    o_bias=False,
    mlp_bias=False,
    window=None,
    tie_word_embeddings=True,
    causal=True,
    pooling="lasttoken",
)
_TOLERANCE = 3e-3
_REPEATS = 5
_PREFIX = 64


def run(run: Run) -> None:
    """Time the steps of the 0.6B model, and compare both ways of computing them."""
    tokens = run.size(65536, 64)
    if run.cuda:
        start = time.perf_counter()
        choose_elementwise(_MODEL, torch.device(run.device), torch.bfloat16, rounding="fp8")
        run.figure("compiling all steps", seconds=time.perf_counter() - start)
        triton = torch._C._dispatch_has_kernel_for_dispatch_key("quernstone::rms_norm", "CUDA")
        run.check("steps run by Triton kernels", triton)
    else:
        run.needs_gpu("compiling all steps")
    with torch.inference_mode():
        for name, (operator, inputs, written, numbers) in _cases(run, tokens).items():
            with run.part(name):
                call, plain = getattr(kernels, operator), DEFINITIONS[operator]
                found, expected = (_result(each, inputs, written) for each in (call, plain))
                error = max(map(reference.relative_error, found, expected))
                run.check(f"{name}, result", error < _TOLERANCE, relative_error=error)
                for kind, each in (("by operation", plain), ("fused", call)):
                    took = device_seconds(run, partial(each, *inputs), _REPEATS)
                    run.figure(f"{name}, {kind}", ms=took * 1e3, gb_per_s=numbers / 1e9 / took)


_Case = tuple[str, tuple[Any, ...], tuple[int, ...], float]


def _cases(run: Run, tokens: int) -> dict[str, _Case]:
    """Return operators, their inputs, which of these they write, and the bytes that they move."""
    dim = reference.HEAD_DIM

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=run.device).bfloat16()

    rope = torch.randn(tokens, dim // 2, 2, device=run.device)
    weight, norm = random(_HEADS, dim), random(_HIDDEN)
    qkv = random(tokens, _HEADS + reference.KV_HEADS, dim)
    hidden, gate_up = random(tokens, _HIDDEN), random(tokens, 2 * _INNER)
    prefix = random(2, _PREFIX, reference.KV_HEADS, dim)
    source = torch.arange(-_PREFIX, tokens, dtype=torch.int32, device=run.device)
    joined = random(2, len(source), reference.KV_HEADS, dim)
    out, other = random(tokens, reference.HEADS, dim), random(tokens, reference.HEADS, dim)
    lse = torch.randn(reference.HEADS, tokens, device=run.device).T
    heads = (qkv[:, :_HEADS], weight, rope, _EPS)
    return {
        "norm and rotate": ("rotate_", heads, (0,), tokens * _HEADS * dim * 4),
        "norm, rotate and join": (
            "rotate_and_join_",
            (qkv, weight, rope, _EPS, source, *prefix, *joined),
            (7, 8),
            tokens * (_HEADS + reference.KV_HEADS) * dim * 4,
        ),
        "SiLU and multiply": ("silu_mul", (gate_up,), (), tokens * _INNER * 6),
        "SiLU, multiply and round": ("silu_mul_fp8", (gate_up,), (), tokens * _INNER * 5),
        "norm": ("rms_norm", (hidden, norm, _EPS), (), tokens * _HIDDEN * 4),
        "norm and round": ("rms_norm_fp8", (hidden, norm, _EPS), (), tokens * _HIDDEN * 3),
        "round to fp8": ("round_fp8", (hidden,), (), tokens * _HIDDEN * 3),
        "merge": ("merge_", (out, lse, other, lse * 0.5), (0,), tokens * reference.HEADS * dim * 6),
    }


def _result(
    call: Callable[..., Any], inputs: tuple[Any, ...], written: tuple[int, ...]
) -> tuple[torch.Tensor, ...]:
    """Call an operator on copies, and return its results or what it writes; fp8 in float32."""
    copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    found = call(*copies)
    if written:
        return tuple(copies[place] for place in written)
    if isinstance(found, tuple):
        return (found[0].float() * found[1],)
    return (found,)

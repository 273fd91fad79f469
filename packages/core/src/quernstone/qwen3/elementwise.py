"""Element-wise steps between the linear layers, for GPUs.

Run operation by operation they would take as long as the linear layers, because each operation
reads and writes memory. So torch compiles each step into one kernel, where it can. CPUs use the
code in `decoder`, and the fused operations of `linear`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.checkpoints.checkpoint import ModelConfig

logger = logging.getLogger("quernstone")

# Kernels are compiled with this number of tokens, and run with any.
_TYPICAL_TOKENS = 2048

_LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max


class _Steps(NamedTuple):
    norm_and_rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor], Tensor]
    silu_and_multiply: Callable[[Tensor], Tensor]
    round_to_fp8: Callable[[Tensor], tuple[Tensor, Tensor]]


class Elementwise:
    """The steps, compiled for at most one dtype."""

    def __init__(self, eps: float, compiled_for: torch.dtype | None = None) -> None:
        """Prepare the steps; kernels are compiled at their first use.

        Rows that overflow are computed again in float32, which is too rare to be worth compiling.
        """

        def norm_and_rotate(x: Tensor, weight: Tensor, rope: Tensor) -> Tensor:
            return _norm_and_rotate(x, weight, rope, eps)

        self._eps, self._dtype = eps, compiled_for
        self._plain = _Steps(norm_and_rotate, _rotate, _silu_and_multiply, round_to_fp8)
        self._compiled = self._plain
        if compiled_for is not None:
            self._compiled = _Steps._make(torch.compile(each, dynamic=True) for each in self._plain)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply RMSNorm to the last axis, for which torch has a fused kernel."""
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), self._eps)

    def norm_and_rotate(self, x: Tensor, weight: Tensor, rope: Tensor) -> Tensor:
        """Apply RMSNorm to each head of `x`, (tokens, heads, dim), then RoPE, in float32.

        `rope` is cosine and sine for each pair of neighbours. Shape: (tokens, 1, dim / 2, 2)
        """
        return self._steps(x).norm_and_rotate(x, weight, rope)

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Apply RoPE alone, in float32. See `norm_and_rotate`."""
        return self._steps(x).rotate(x, rope)

    def silu_and_multiply(self, x: Tensor) -> Tensor:
        """Multiply SiLU of each row's first half by its second. Shape: (tokens, 2 * inner)."""
        return self._steps(x).silu_and_multiply(x)

    def round_to_fp8(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round rows to float8_e4m3fn. `x` is about the result times the scales, (rows, 1)."""
        return self._steps(x).round_to_fp8(x)

    def _steps(self, x: Tensor) -> _Steps:
        return self._compiled if x.dtype == self._dtype else self._plain


def choose_elementwise(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, fp8: bool
) -> Elementwise | None:
    """Return the steps for a device: None for a CPU, compiled on CUDA where that works.

    Compiling takes several seconds, less if torch finds the kernels in its cache.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return Elementwise(config.rms_norm_eps)
    if importlib.util.find_spec("triton") is None:
        return _uncompiled(config, "Triton is not installed")
    steps = Elementwise(config.rms_norm_eps, dtype)
    try:
        compile_steps(steps, config, device, dtype, fp8=fp8)
    except Exception as error:  # noqa: BLE001 - compilers raise anything, and are optional
        return _uncompiled(config, f"{type(error).__name__}: {error}")
    return steps


def compile_steps(
    steps: Elementwise, config: ModelConfig, device: torch.device, dtype: torch.dtype, *, fp8: bool
) -> None:
    """Run every step that the model needs, for many tokens and for one."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    # Created outside of inference mode, like the weights: torch compiles again where this differs.
    weight = torch.ones(heads + kv_heads, dim, device=device, dtype=dtype)
    with torch.inference_mode():
        for tokens in (_TYPICAL_TOKENS, 1):
            qk = torch.ones(tokens, heads + kv_heads, dim, device=device, dtype=dtype)
            rope = torch.ones(tokens, 1, dim // 2, 2, device=device)
            for part in (qk, qk[:, :heads]):  # contiguous in the last layer, else views
                if config.qk_norm:
                    steps.norm_and_rotate(part, weight[: part.shape[1]], rope)
                else:
                    steps.rotate(part, rope)
            gate_up = torch.ones(tokens, 2 * config.intermediate_size, device=device, dtype=dtype)
            inner = steps.silu_and_multiply(gate_up)
            if fp8:
                steps.round_to_fp8(inner)


def _uncompiled(config: ModelConfig, why: str) -> Elementwise:
    logger.warning(
        "norms, rotations and activations are not compiled, which makes this GPU slower: %s", why
    )
    return Elementwise(config.rms_norm_eps)


def _norm_and_rotate(x: Tensor, weight: Tensor, rope: Tensor, eps: float) -> Tensor:
    numbers = x.float()
    scale = torch.rsqrt(numbers.square().mean(-1, keepdim=True) + eps)
    return _rotate(numbers * scale * weight.float(), rope).to(x.dtype)


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    (real, imaginary), (cos, sin) = x.float().unflatten(-1, (-1, 2)).unbind(-1), rope.unbind(-1)
    rotated = (real * cos - imaginary * sin, real * sin + imaginary * cos)
    return torch.stack(rotated, -1).flatten(-2).to(x.dtype)


def _silu_and_multiply(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def round_to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `Elementwise.round_to_fp8`."""
    numbers = x.float()
    # The minimum keeps rows of zeros from dividing by zero.
    scale = numbers.abs().amax(-1, keepdim=True).div(_LARGEST_FP8).clamp_min(1e-20)
    return (numbers / scale).to(torch.float8_e4m3fn), scale

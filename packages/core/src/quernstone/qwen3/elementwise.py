"""Element-wise steps between the linear layers, for GPUs.

Each step is one operator of `quernstone.kernels`. CPUs use the code in `decoder`, and the fused
operations of `linear`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from quernstone import kernels
from quernstone.attention import PrefixKeys
from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.kernels import Rounded

logger = logging.getLogger("quernstone")


class Elementwise:
    """The steps of one model."""

    def __init__(self, eps: float, *, fp8: bool = False) -> None:
        """Prepare the steps.

        Args:
            eps: Of all norms.
            fp8: Round what products read to fp8. Rows in float32 are not rounded: they overflowed
                in bfloat16, and are computed again.
        """
        self._eps, self._fp8 = eps, fp8

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply RMSNorm to the last axis."""
        return kernels.rms_norm(x, weight, self._eps)

    def norm_for_product(self, x: Tensor, weight: Tensor) -> Any:
        """Return the same for a linear layer: as `Rounded` if the layers are in fp8."""
        if self._rounds(x):
            return Rounded(*kernels.rms_norm_fp8(x, weight, self._eps), x.dtype)
        return self.norm(x, weight)

    def norm_and_rotate(self, x: Tensor, weight: Tensor, rope: Tensor) -> Tensor:
        """Apply RMSNorm to each head of `x`, (tokens, heads, dim), then RoPE, both in place.

        `rope` is cosine and sine for each pair of neighbours. Shape: (tokens, 1, dim / 2, 2)
        """
        kernels.rotate_(x, weight, rope.squeeze(1), self._eps)
        return x

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Apply RoPE alone, in place. See `norm_and_rotate`."""
        kernels.rotate_(x, None, rope.squeeze(1), self._eps)
        return x

    def join(
        self, qkv: Tensor, weight: Tensor | None, rope: Tensor, source: Tensor, prefix: PrefixKeys
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and rotate queries and keys, and write keys and values after those of prefixes.

        See `kernels.rotate_and_join_`. Returns queries, joined keys and joined values.
        """
        kv_heads, dim = prefix.key.shape[1:]
        key, value = qkv.new_empty(2, len(source), kv_heads, dim).unbind()
        kernels.rotate_and_join_(
            qkv, weight, rope.squeeze(1), self._eps, source, prefix.key, prefix.value, key, value
        )
        return qkv[:, : -2 * kv_heads], key, value

    def silu_and_multiply(self, x: Tensor) -> Any:
        """Multiply SiLU of each row's first half by its second. Shape: (tokens, 2 * inner).

        The result is for a linear layer, see `norm_for_product`.
        """
        if self._rounds(x):
            return Rounded(*kernels.silu_mul_fp8(x), x.dtype)
        return kernels.silu_mul(x)

    def _rounds(self, x: Tensor) -> bool:
        return self._fp8 and x.dtype != torch.float32


def choose_elementwise(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, rounding: str | None
) -> Elementwise | None:
    """Return the steps for a device: None for a CPU, by Triton kernels on CUDA where that works.

    All kernels are compiled here, which takes about a second, and less if Triton finds them in its
    cache.
    """
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        try:
            with torch.inference_mode():
                _use_triton(config, device, dtype, rounding=rounding)
        except Exception as error:  # noqa: BLE001 - compilers raise anything, and are optional
            logger.warning(
                "norms, rotations and activations run operation by operation, which makes this GPU "
                "much slower: %s",
                f"{type(error).__name__}: {error}",
            )
    return Elementwise(config.rms_norm_eps, fp8=rounding == "fp8")


def _use_triton(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, rounding: str | None
) -> None:
    from quernstone.kernels import launch  # noqa: PLC0415 - needs Triton

    for each in dict.fromkeys((dtype, torch.float32)):
        run_all(launch, config, device, each, fp8=rounding == "fp8" and each == dtype)
        if rounding == "int8":
            run_products(launch, config, device, each)
    launch.check_starting(device)
    kernels.use_triton()


def run_all(
    operators: kernels.Operators,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    fp8: bool,
) -> None:
    """Run every operator once, on tensors of the shapes and strides that the model has."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    eps, tokens = config.rms_norm_eps, 2

    def ones(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.ones(shape, device=device, dtype=dtype)

    hidden, inner = ones(tokens, config.hidden_size), ones(tokens, 2 * config.intermediate_size)
    norm = ones(config.hidden_size)
    operators.rms_norm(hidden, norm, eps)
    operators.silu_mul(inner)
    if fp8:
        operators.rms_norm_fp8(hidden, norm, eps)
        operators.silu_mul_fp8(inner)
        operators.round_fp8(hidden)
        operators.round_fp8(ones(tokens, heads * dim))
    rope = ones(tokens, dim // 2, 2, dtype=torch.float32)
    source = torch.arange(-1, tokens, device=device, dtype=torch.int32)
    for query_heads in (heads, 0):  # a layer, and the keys and values of the last one
        weight = ones(query_heads + kv_heads, dim) if config.qk_norm else None
        qkv = ones(tokens, query_heads + 2 * kv_heads, dim)
        prefix, joined = ones(2, 1, kv_heads, dim), ones(2, tokens + 1, kv_heads, dim)
        operators.rotate_(qkv[:, :-kv_heads], weight, rope, eps)
        operators.rotate_and_join_(qkv, weight, rope, eps, source, *prefix, *joined)
    query, lse = ones(tokens, heads, dim), ones(tokens, heads, dtype=torch.float32)
    weight = ones(heads, dim) if config.qk_norm else None
    operators.rotate_(query, weight, rope, eps)  # of the last layer
    operators.merge_(query, lse, query.clone(), lse)


def run_products(
    operators: kernels.Operators, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Run the products in int8 once for few and for many rows, in every shape of the model."""
    dim, hidden, inner = config.head_dim, config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    shapes = [((heads + 2 * kv_heads) * dim, hidden), (2 * kv_heads * dim, hidden)]
    shapes += [(heads * dim, hidden), (hidden, heads * dim), (2 * inner, hidden), (hidden, inner)]
    for outputs, inputs in dict.fromkeys(shapes):
        weight = torch.ones(outputs, inputs, device=device, dtype=torch.int8)
        scale = torch.ones(outputs, device=device)
        for rows in (1, 17):
            operators.int8_linear(
                torch.ones(rows, inputs, device=device, dtype=dtype), weight, scale
            )

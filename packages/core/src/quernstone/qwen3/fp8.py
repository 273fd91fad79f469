"""Products of activations with weights in 8-bit floating point, on GPUs from Ada and Hopper on.

Every output of a matrix has a scale of its own, found when it is read; every token has one, found
when it is computed. Nothing needs calibration data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.qwen3.elementwise import round_to_fp8

CAPABILITY = (8, 9)
"""The least compute capability with products of 8-bit floating point."""

Rounding = Callable[[Tensor], tuple[Tensor, Tensor]]
"""As `quernstone.qwen3.elementwise.round_to_fp8`."""


class Fp8Linear:
    """A weight matrix in float8_e4m3fn, for activations in bfloat16.

    In float32, in which rows that overflow are computed again, activations are not rounded.
    """

    __slots__ = ("_round", "_scale", "_weight")

    def __init__(self, weight: Tensor, rounding: Rounding) -> None:
        """Round a matrix.

        Args:
            weight: Shape: (outputs, inputs), both multiples of 16.
            rounding: For activations; a GPU has it compiled.
        """
        self._round = rounding
        self._weight, scale = round_to_fp8(weight)
        self._scale = scale.T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        if x.dtype == torch.float32:
            return F.linear(x, self._weight.float()).mul_(self._scale)
        rounded, scale = self._round(x)
        made: Tensor = torch._scaled_mm(
            rounded, self._weight.T, scale_a=scale, scale_b=self._scale, out_dtype=x.dtype
        )
        return made

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus `other`, which may be overwritten."""
        return other.add_(self(x))


def can_compute_fp8(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit floating point."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY

"""Linear layers in 8-bit floating point, for GPUs since Ada and Hopper.

Weights are scaled per output when they are read, activations per token when they are computed, so
no calibration data is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.kernels import Rounded, round_fp8


class Fp8Linear:
    """A weight matrix in float8_e4m3fn, for activations in bfloat16.

    Float32 activations, of rows that overflowed in bfloat16, are not rounded.
    """

    def __init__(self, weight: Tensor) -> None:
        """Round a matrix. Shape: (outputs, inputs), both multiples of 16."""
        self._weight, scale = round_fp8(weight)
        self._scale = scale.T.contiguous()

    def __call__(self, x: Tensor | Rounded) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        if isinstance(x, Tensor):
            if x.dtype == torch.float32:
                return F.linear(x, self._weight.float()).mul_(self._scale)
            x = Rounded(*round_fp8(x), x.dtype)
        # Without fast accumulation, these products were slower than in bfloat16 on an H100.
        out: Tensor = torch._scaled_mm(
            x.values,
            self._weight.T,
            scale_a=x.scale,
            scale_b=self._scale,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return out

    def add(self, x: Tensor | Rounded, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""
        return other.add_(self(x))


def can_compute_fp8(device: torch.device) -> bool:
    """Return whether a device multiplies 8-bit floating point: from compute capability 8.9 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)

"""Linear layers in int8, computed by oneDNN on x86 CPUs with VNNI.

Weights are scaled per output when they are read, activations per token when they are computed, so
no calibration data is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_LARGEST = 127
# A token's scale may be rounded down to the activations' dtype; this leaves room for that.
_LARGEST_TOKEN = 126
# oneDNN multiplies unsigned activations by signed weights, so 128 stands for zero.
_ZERO = 128
# Tokens to round in one step, few enough for a core's cache.
_BLOCK_TOKENS = 128


class Int8Linear:
    """A weight matrix in int8, with the methods of `quernstone.qwen3.linear.Linear`."""

    def __init__(self, weight: Tensor) -> None:
        """Round a matrix. Shape: (outputs, inputs)."""
        rounded, self._scale = rounded_weight(weight)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        rounded, scale = _round(x)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scale, self._zeros,
            None, 1.0, 0, x.dtype, "none", [], "",
        )  # fmt: skip
        return out.mul_(scale)

    def silu(self, x: Tensor) -> Tensor:
        """Return SiLU of the output."""
        return F.silu(self(x), inplace=True)

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output times `other`, element by element."""
        return self(x).mul_(other)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`."""
        return self(x).add_(other)


def rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8, which times the scales of its outputs, (outputs,), is about it."""
    scale = _scale(weight.float(), _LARGEST)
    return weight.float().div(scale).round_().to(torch.int8), scale.squeeze(1)


def can_compute_int8() -> bool:
    """Return whether this CPU multiplies int8 exactly: without VNNI, sums of pairs saturate."""
    # This private probe of torch is the only one. Where it is missing, assume no support.
    probe = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return bool(probe()) and torch.backends.mkldnn.is_available()


def _scale(x: Tensor, largest: int) -> Tensor:
    # The minimum keeps rows of zeros from dividing by zero.
    return x.abs().amax(1, keepdim=True).div_(largest).clamp_min_(1e-20)


def _round(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round to uint8. `x` is about (rounded - `_ZERO`) * scales; shape of scales: (tokens, 1)."""
    rounded = torch.empty(x.shape, dtype=torch.uint8)
    scales = torch.empty(len(x), 1, dtype=x.dtype)
    for start in range(0, len(x), _BLOCK_TOKENS):
        at = slice(start, start + _BLOCK_TOKENS)
        scale = scales[at] = _scale(x[at], _LARGEST_TOKEN)
        rounded[at] = x[at].float().div(scale).round_().add_(_ZERO)
    return rounded, scales

"""Products of activations with weights in int8, by oneDNN on x86 CPUs with VNNI.

Every output of a matrix has a scale of its own, found when it is read; every token has one, found
when it is computed. Nothing needs calibration data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_LARGEST = 127
# Scales of tokens are rounded to the activations' dtype, maybe down: this leaves room for it.
_LARGEST_TOKEN = 126
# oneDNN multiplies unsigned activations with signed weights: zero is stored as 128
_ZERO = 128
# Tokens rounded at a time: they stay in a core's cache.
_BLOCK_TOKENS = 128


class Int8Linear:
    """A weight matrix in int8, with the methods of `quernstone.qwen3.linear.Linear`."""

    __slots__ = ("_packed", "_scale", "_zeros")

    def __init__(self, weight: Tensor) -> None:
        """Round a matrix. Shape: (outputs, inputs)."""
        scale = _scale(weight.float(), _LARGEST)
        rounded = weight.float().div(scale).round_().to(torch.int8)
        self._scale = scale.squeeze(1)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        rounded, scale = _rounded(x)
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scale, self._zeros,
            None, 1.0, 0, x.dtype, "none", [], "",
        )  # fmt: skip
        return made.mul_(scale)

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the product."""
        return F.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product, number by number times `other`."""
        return self(x).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus `other`."""
        return self(x).add_(other)


def can_compute_int8() -> bool:
    """Whether this CPU multiplies int8 exactly; without VNNI, sums of pairs saturate."""
    # private in torch, and the only probe there is: absent means not known, so no
    probe = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return bool(probe()) and torch.backends.mkldnn.is_available()


def _scale(x: Tensor, largest: int) -> Tensor:
    # not smaller than this, so that a row of zeros stays one
    return x.abs().amax(1, keepdim=True).div_(largest).clamp_min_(1e-20)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations in uint8, and what to multiply them with, less `_ZERO`, to have them back.

    Returns:
        Shape: (tokens, inputs) and (tokens, 1); the scales in the dtype of `x`.
    """
    rounded = torch.empty(x.shape, dtype=torch.uint8)
    scales = torch.empty(len(x), 1, dtype=x.dtype)
    for start in range(0, len(x), _BLOCK_TOKENS):
        at = slice(start, start + _BLOCK_TOKENS)
        scale = scales[at] = _scale(x[at], _LARGEST_TOKEN)
        rounded[at] = x[at].float().div(scale).round_().add_(_ZERO)
    return rounded, scales

"""Products of activations with the weights of a model.

On x86 CPUs the weights are laid out for oneDNN once, when they are read: torch's `linear` would do
part of that in every call. Against it, in bfloat16 on two cores with AVX512-BF16, a whole MLP takes
0.4 of the time at 8 tokens, 0.75 at 512 and 0.85 at 4,096; half of that or less in float32.
"""

from __future__ import annotations

import os
import platform

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_PACKED_DTYPES = (torch.bfloat16, torch.float32)

# oneDNN, and torch above it, keep what they compiled for 1,024 shapes of operands each. Packed
# batches hardly ever have a shape twice: a process grew by a gigabyte over 50,000 short texts. The
# layers of one model share their shapes, so with 128 nothing takes longer; a text of 6,000 tokens
# alone has 113. What torch keeps saves it a look at oneDNN's, which takes no time, and costs
# 1.3 MiB a shape.
_KERNEL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 128, "LRU_CACHE_CAPACITY": 16}
for _name, _shapes in _KERNEL_CACHES.items():
    os.environ.setdefault(_name, str(_shapes))


class Linear:
    """A weight matrix. What is computed in another dtype than the weight's is converted for it."""

    __slots__ = ("_packed", "_weight")

    def __init__(self, weight: Tensor) -> None:
        """Take a matrix. Shape: (outputs, inputs)."""
        self._packed = _can_pack(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        return self._product(x, "none") if self._is_packed(x) else F.linear(x, self._dense(x))

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the product."""
        if self._is_packed(x):
            return self._product(x, "swish")
        return F.silu(F.linear(x, self._dense(x)), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product, number by number times `other`."""
        if self._is_packed(x):
            return self._binary_product(x, other, "mul")
        return F.linear(x, self._dense(x)).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product plus `other`, which may be overwritten: a GPU adds while it multiplies."""
        if self._is_packed(x):
            return self._binary_product(x, other, "add")
        return other.addmm_(x, self._dense(x).T)

    def _is_packed(self, x: Tensor) -> bool:
        return self._packed and x.dtype == self._weight.dtype

    def _dense(self, x: Tensor) -> Tensor:
        weight = self._weight.to_dense() if self._packed else self._weight
        return weight.to(x.dtype)

    def _product(self, x: Tensor, activation: str) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, activation, [], "")
        return made

    def _binary_product(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self._weight, None, operation
        )
        return made


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can take the weight: its operators are what torch's own compiler emits."""
    if weight.device.type != "cpu" or weight.dtype not in _PACKED_DTYPES:
        return False
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True

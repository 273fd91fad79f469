"""Linear layers, with weights packed for oneDNN on x86 CPUs.

Packing happens once, when a weight is read; torch's `linear` would repeat part of it in every call.
In bfloat16 on two cores with AVX512-BF16, a whole MLP takes 0.4 of the time of `linear` at 8
tokens, 0.75 at 512 and 0.85 at 4,096; half of that or less in float32.
"""

from __future__ import annotations

import os
import platform
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_PACKED_DTYPES = (torch.bfloat16, torch.float32)

# Shapes for which oneDNN and torch keep compiled kernels; their default is 1,024 each. Packed
# batches hardly ever repeat a shape, so a process grew by a gigabyte over 50,000 short texts. All
# layers share their shapes: 128 are enough even for one text of 6,000 tokens, which has 113.
# Torch's cache only saves a lookup in oneDNN's, and costs 1.3 MiB a shape.
_KERNEL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": 128, "LRU_CACHE_CAPACITY": 16}


def limit_kernel_caches() -> None:
    """Limit oneDNN's caches, unless the environment already does.

    oneDNN and torch read these variables when they run their first kernel, so call this before
    the first `Linear` of a process.
    """
    for name, shapes in _KERNEL_CACHES.items():
        os.environ.setdefault(name, str(shapes))


class Linear:
    """A weight matrix, converted to the dtype of its input where the two differ."""

    def __init__(self, weight: Tensor) -> None:
        """Pack the matrix if possible. Shape: (outputs, inputs)."""
        self._packed = _can_pack(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        return self._unary(x, "none") if self._is_packed(x) else F.linear(x, self._dense(x))

    def silu(self, x: Tensor) -> Tensor:
        """Return SiLU of the output."""
        if self._is_packed(x):
            return self._unary(x, "swish")
        return F.silu(F.linear(x, self._dense(x)), inplace=True)

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output times `other`, element by element."""
        if self._is_packed(x):
            return self._binary(x, other, "mul")
        return F.linear(x, self._dense(x)).mul_(other)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""
        if self._is_packed(x):
            return self._binary(x, other, "add")
        return other.addmm_(x, self._dense(x).T)

    def _is_packed(self, x: Tensor) -> bool:
        return self._packed and x.dtype == self._weight.dtype

    def _dense(self, x: Tensor) -> Tensor:
        weight = self._weight.to_dense() if self._packed else self._weight
        return weight.to(x.dtype)

    def _unary(self, x: Tensor, activation: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, activation, [], "")
        return out

    def _binary(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self._weight, None, operation
        )
        return out


class Unbiased(Protocol):
    """A weight matrix without biases, in any precision."""

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""


class BiasedLinear:
    """A weight matrix of any precision, and biases, with the methods of `Linear`."""

    def __init__(self, linear: Unbiased, bias: Tensor) -> None:
        """Keep the biases. Shape: (outputs,)."""
        self._linear, self._bias = linear, bias

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        return self._linear(x).add_(self._bias)

    def silu(self, x: Tensor) -> Tensor:
        """Return SiLU of the output."""
        return F.silu(self(x), inplace=True)

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output times `other`, element by element."""
        return self(x).mul_(other)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""
        return self._linear.add(x, other).add_(self._bias)


def _can_pack(weight: Tensor) -> bool:
    """Return whether the operators that torch's own compiler emits for oneDNN take this weight."""
    if weight.device.type != "cpu" or weight.dtype not in _PACKED_DTYPES:
        return False
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True

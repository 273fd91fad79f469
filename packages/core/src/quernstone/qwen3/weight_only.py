"""Linear layers with weights in int8 and activations in their own dtype, for GPUs.

Weights are scaled per output when they are read. They take half of the memory of bfloat16. For many
rows, each matrix is converted to the dtype of the activations, multiplied, and dropped, which takes
about as long as in bfloat16.
"""

from __future__ import annotations

from torch import Tensor

from quernstone.kernels import int8_linear
from quernstone.qwen3.int8 import rounded_weight


class WeightOnlyLinear:
    """A weight matrix in int8."""

    def __init__(self, weight: Tensor) -> None:
        """Round a matrix. Shape: (outputs, inputs)."""
        self._weight, self._scale = rounded_weight(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        return int8_linear(x, self._weight, self._scale)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""
        return other.add_(self(x))

"""The first half of an MLP: SiLU of one product, times another."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from quernstone.qwen3.elementwise import Elementwise
from quernstone.qwen3.int8 import Int8Linear
from quernstone.qwen3.linear import Linear


class SeparateProducts:
    """For CPUs: both products, with SiLU and the multiplication in their kernels."""

    __slots__ = ("_gate", "_up")

    def __init__(self, gate: Linear | Int8Linear, up: Linear | Int8Linear) -> None:
        self._gate, self._up = gate, up

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, inner)."""
        return self._up.times(x, self._gate.silu(x))


class JointProduct:
    """For GPUs, which one large product keeps busier than two; one kernel does the rest."""

    __slots__ = ("_elementwise", "_gate_up")

    def __init__(self, gate_up: Callable[[Tensor], Tensor], elementwise: Elementwise) -> None:
        """Take the product with both matrices, that of the gate above the other.

        Args:
            gate_up: (tokens, hidden) -> (tokens, 2 * inner)
            elementwise: For the rest.
        """
        self._gate_up, self._elementwise = gate_up, elementwise

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, inner)."""
        return self._elementwise.silu_and_multiply(self._gate_up(x))

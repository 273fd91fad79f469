"""The matrix products of a model and nothing else: what no engine can be faster than."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.checkpoints import SHAPES, Layout
from quernstone.linear import Linear

_ROWS = (512, 1024, 2048, 4096)
"""More tokens at once use the cores better, fewer stay in their caches."""
_TRIES = 3

Product = Callable[[Tensor], Tensor]


class Floor:
    """The machine's own best rate for the matrices of one layer.

    All layers are counted in full. Of the last one our engine computes keys and values only, except
    for the pooled token; with few layers it may take less time than the floor.
    """

    def __init__(self, layout: Layout, dtype: str, device: str) -> None:
        weights = _layer(layout, dtype, device)
        self._inputs = [_random(max(_ROWS), len(weight[0]), dtype, device) for weight in weights]
        self._ways: list[list[Product]] = [
            [lambda x, weight=weight: F.linear(x, weight) for weight in weights],
            [Linear(weight) for weight in weights],
        ]

    def seconds(self, tokens: int, layers: int) -> float:
        """Of so many tokens in so many layers: as torch multiplies or as we do, what is faster."""
        best = min(
            _seconds(products, [x[:rows] for x in self._inputs]) / rows
            for _ in range(_TRIES)
            for products in self._ways
            for rows in _ROWS
        )
        return best * tokens * layers


class Forward:
    """All matrices of a model, one after the other, as our engine multiplies."""

    def __init__(self, layout: Layout, layers: int, dtype: str, device: str) -> None:
        self._like = (dtype, device)
        weights = [_layer(layout, dtype, device) for _ in range(layers)]
        self._widths = [len(weight[0]) for weight in weights[0]]
        self._products: list[list[Product]] = [[Linear(one) for one in layer] for layer in weights]

    def seconds(self, tokens: int) -> float:
        """Of one pass of so many tokens."""
        inputs = [_random(tokens, width, *self._like) for width in self._widths]
        products = [product for layer in self._products for product in layer]
        return _seconds(products, inputs * len(self._products))


def _seconds(products: Sequence[Product], inputs: Sequence[Tensor]) -> float:
    device = inputs[0].device
    with torch.inference_mode():
        _wait_for(device)
        start = time.perf_counter()
        for product, x in zip(products, inputs, strict=True):
            product(x)
        _wait_for(device)
        return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _layer(layout: Layout, dtype: str, device: str) -> list[Tensor]:
    shape = SHAPES[layout]
    query, keys = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    sizes = [
        (query + keys, shape.hidden),
        (shape.hidden, query),
        (shape.intermediate, shape.hidden),  # gate
        (shape.intermediate, shape.hidden),  # up
        (shape.hidden, shape.intermediate),
    ]
    return [_random(*size, dtype, device) for size in sizes]


def _random(rows: int, columns: int, dtype: str, device: str) -> Tensor:
    return torch.randn(rows, columns).to(device, getattr(torch, dtype))

"""The floor: what a model's matrix products take at this machine's own rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.qwen3.linear import Linear

_ROWS = (512, 1024, 2048, 4096, 8192)
"""Tokens in one product: more use the cores better, fewer stay in their caches."""
_RUNS = 3
_LONG = 0.25
"""Seconds after which products are not made larger: their kernels are busy."""

Product = Callable[[Tensor], Tensor]


def matrix_seconds(
    config: ModelConfig, *, tokens: int, sequences: int, device: str, dtype: str
) -> float:
    """Time of the matrix products that no engine can do without, measured here and now.

    The products of one layer are run with random numbers, as torch multiplies and as our engine
    does, for several numbers of tokens at once, and the best rate counts. In the last layer all
    tokens need keys and values, and the rest is needed for one token of each sequence. What is not
    counted: attention, norms, the embedding table, everything around the model.

    Args:
        config: Of the model.
        tokens: How many are computed; what sequences share counts once.
        sequences: How many.
        device: As `EngineInfo.device` names it.
        dtype: A floating-point one, as `EngineInfo.dtype` names it.

    Returns:
        Seconds.
    """
    shapes = layer_shapes(config, joint=torch.device(device).type != "cpu")
    layer = _seconds_per_token(shapes, torch.device(device), getattr(torch, dtype))
    keys = 2 * config.num_key_value_heads * config.head_dim * config.hidden_size
    of_keys = keys / sum(outputs * inputs for outputs, inputs in shapes)
    whole_layers = config.num_hidden_layers - 1
    return layer * (tokens * (whole_layers + of_keys) + sequences * (1 - of_keys))


def layer_shapes(config: ModelConfig, *, joint: bool) -> list[tuple[int, int]]:
    """(outputs, inputs) of the matrices of one layer, gate and up as one if they are joint."""
    query = config.num_attention_heads * config.head_dim
    keys = 2 * config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        (query + keys, hidden),
        (hidden, query),
        *([(2 * inner, hidden)] if joint else [(inner, hidden)] * 2),  # gate and up
        (hidden, inner),
    ]


def product_seconds(products: Sequence[Product], inputs: Sequence[Tensor]) -> float:
    """Time of these products, one after another."""
    device = inputs[0].device
    with torch.inference_mode():
        _wait_for(device)
        start = time.perf_counter()
        for product, x in zip(products, inputs, strict=True):
            product(x)
        _wait_for(device)
        return time.perf_counter() - start


def _seconds_per_token(
    shapes: Sequence[tuple[int, int]], device: torch.device, dtype: torch.dtype
) -> float:
    """Of the products with matrices of these (outputs, inputs), one after another."""
    with torch.inference_mode():
        weights = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
        whole = [torch.randn(max(_ROWS), shape[1], device=device, dtype=dtype) for shape in shapes]
        ways: list[list[Product]] = [
            [partial(F.linear, weight=weight) for weight in weights],
            [Linear(weight) for weight in weights],
        ]
        best = float("inf")
        for products in ways:
            for rows in _ROWS:
                inputs = [x[:rows] for x in whole]
                product_seconds(products, inputs)  # the first time is for the kernels
                fastest = min(product_seconds(products, inputs) for _ in range(_RUNS))
                best = min(best, fastest / rows)
                if fastest > _LONG:
                    break
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

"""Measure a lower bound: the time that a model's matrix products alone take on this machine."""

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
"""Tokens per product: large ones use the cores better, small ones fit the caches."""
_RUNS = 3
_LONG = 0.25
"""Stop enlarging products that take this many seconds: larger ones are not faster per token."""

Product = Callable[[Tensor], Tensor]


def matrix_seconds(
    config: ModelConfig, *, tokens: int, sequences: int, device: str, dtype: str
) -> float:
    """Measure the time of the matrix products that every engine has to compute.

    The products of one layer run on random numbers, with torch's linear and with ours, at several
    sizes; the best rate counts. The last layer computes keys and values of all tokens, and the
    rest for one token per sequence. Attention, norms, the embedding table and all work outside
    the model are left out.

    Args:
        config: The model's configuration.
        tokens: Number of tokens; a shared prefix counts once.
        sequences: Number of sequences.
        device: As `EngineInfo.device` names it.
        dtype: A floating-point type, as `EngineInfo.dtype` names it.

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
    """Return the (outputs, inputs) of each matrix of a layer; `joint` merges gate and up."""
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
    """Return the seconds that the products take, run one after another."""
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
    """Return the best seconds per token for products with matrices of these shapes."""
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
                product_seconds(products, inputs)  # warm up: the first call compiles kernels
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

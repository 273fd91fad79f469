"""The floor: what a model's matrix products take at this machine's own rate."""

from __future__ import annotations

import time

import torch

from quernstone.linear import Linear
from quernstone.models import ModelConfig

_RUNS = 7


def matrix_seconds(
    config: ModelConfig, *, tokens: int, sequences: int, rows: int, device: str, dtype: str
) -> float:
    """Time of the matrix products that a batch cannot do without, measured here and now.

    The products of one layer are run with random numbers, and the fastest of several runs counts.
    In the last layer all tokens need keys and values, and the rest is needed for one token of each
    sequence. What is not counted: attention, norms, the embedding table, everything around it.

    Args:
        config: Of the model.
        tokens: How many are computed, what sequences share counted once.
        sequences: How many.
        rows: Tokens in one product, which is the budget of a batch.
        device: As `EngineInfo.device` names it.
        dtype: A floating-point one.

    Returns:
        Seconds.
    """
    at, number = torch.device(device), getattr(torch, dtype)
    query = config.num_attention_heads * config.head_dim
    both = 2 * config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size

    def seconds_per_row(*sizes: tuple[int, int]) -> float:
        with torch.inference_mode():
            products = [
                (Linear(torch.randn(size, device=at, dtype=number) * size[1] ** -0.5), inputs)
                for size in sizes
                for inputs in [torch.randn(rows, size[1], device=at, dtype=number)]
            ]
            times = []
            for _ in range(_RUNS + 1):  # the first one prepares the kernels
                start = time.perf_counter()
                for linear, inputs in products:
                    linear(inputs)
                _wait_for(at)
                times.append(time.perf_counter() - start)
        return min(times[1:]) / rows

    rest = [(hidden, query), (inner, hidden), (inner, hidden), (hidden, inner)]
    layer = seconds_per_row((query + both, hidden), *rest)
    keys = seconds_per_row((both, hidden))
    whole_layers = config.num_hidden_layers - 1
    return tokens * (whole_layers * layer + keys) + sequences * max(layer - keys, 0.0)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

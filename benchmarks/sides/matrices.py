"""The matrix products of a model and nothing else: a lower bound for every engine."""

from __future__ import annotations

import torch

from quernstone.bench.matrices import layer_shapes, matrix_seconds, product_seconds
from quernstone.checkpoints.checkpoint import resolve
from quernstone.qwen3.linear import Linear


class Floor:
    """The unavoidable products, at the machine's best rate."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self._config = resolve(model, "embed").decoder_config()
        self._like = {"dtype": dtype, "device": device}

    def seconds(self, tokens: int, sequences: int) -> float:
        """Return the seconds for this many tokens in this many sequences."""
        return matrix_seconds(self._config, tokens=tokens, sequences=sequences, **self._like)


class Forward:
    """All matrices of a model, one after the other, multiplied like in our engine."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        config = resolve(model, "embed").decoder_config()
        self._shapes = layer_shapes(config, joint=device != "cpu") * config.num_hidden_layers
        self._like = {"dtype": getattr(torch, dtype), "device": device}
        self._products = [Linear(torch.randn(shape, **self._like)) for shape in self._shapes]

    def seconds(self, tokens: int) -> float:
        """Return the seconds for one pass of this many tokens."""
        inputs = {width: torch.randn(tokens, width, **self._like) for _, width in self._shapes}
        return product_seconds(self._products, [inputs[width] for _, width in self._shapes])

"""From the states of tokens to embeddings: pooling and dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from quernstone.checkpoints.modules import DenseConfig, Pooling
from quernstone.errors import ModelLoadError


def pool(states: Tensor, ends: Tensor, pooling: Pooling) -> Tensor:
    """Pool the states of each sequence. Shape: (tokens, hidden) -> (sequences, hidden).

    Args:
        states: The states of the batch's tokens.
        ends: The index of the last token of each sequence. Padding repeats the last one; the rows
            of padding are undefined.
        pooling: `mean` or `cls`.
    """
    after = ends.long() + 1
    starts = torch.cat((after.new_zeros(1), after[:-1]))
    if pooling == "cls":
        return states[torch.minimum(starts, ends)]
    lengths = after - starts
    return torch.segment_reduce(states.float(), "mean", lengths=lengths, unsafe=True)


class DenseLayers:
    """The `Dense` modules of sentence-transformers after pooling, in float32."""

    def __init__(self, folder: Path, layers: Sequence[DenseConfig], device: torch.device) -> None:
        """Read the weights.

        Raises:
            ModelLoadError: A tensor is missing or has another shape than its configuration.
        """
        self._layers = []
        for layer in layers:
            path = folder / layer.folder / "model.safetensors"
            tensors = load_file(path, str(device)) if path.is_file() else {}
            weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
            if weight is None or tuple(weight.shape) != (layer.out_features, layer.in_features):
                size = f"{layer.out_features} x {layer.in_features}"
                raise ModelLoadError(f"`{path}` has no `linear.weight` of {size} numbers")
            if layer.bias is not (bias is not None):
                raise ModelLoadError(f"`{path}`: `linear.bias` does not fit `config.json`")
            activation = getattr(torch.nn, layer.activation)()
            self._layers.append(
                (weight.float(), None if bias is None else bias.float(), activation)
            )

    def __call__(self, rows: Tensor) -> Tensor:
        """Apply all layers. Shape: (rows, in_features) -> (rows, out_features)."""
        for weight, bias, activation in self._layers:
            rows = activation(torch.nn.functional.linear(rows, weight, bias))
        return rows

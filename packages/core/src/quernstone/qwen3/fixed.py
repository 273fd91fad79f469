"""Linear layers in which the rows do not depend on each other, for `deterministic` on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.kernels import fixed_linear, rms_norm

_PROBE_ROWS = 150  # more than a tile
_PROBE_PARTS = (slice(0, 1), slice(3, 9), slice(100, 150))


class FixedLinear:
    """A weight matrix, multiplied in tiles whose shape does not depend on the number of rows."""

    def __init__(self, weight: Tensor) -> None:
        """Keep a matrix. Shape: (outputs, inputs)."""
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs)."""
        return fixed_linear(x, self._weight)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the output plus `other`, which may be overwritten."""
        return other.add_(self(x))


def rows_are_independent(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if the rows of products and norms have the same bits when computed alone.

    Runs every shape of the model, in `dtype` and in float32, so that nothing is compiled later.
    """
    dim, hidden, inner = config.head_dim, config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    shapes = [((heads + 2 * kv_heads) * dim, hidden), (2 * kv_heads * dim, hidden)]
    shapes += [(heads * dim, hidden), (hidden, heads * dim), (2 * inner, hidden), (hidden, inner)]
    random = torch.Generator().manual_seed(0)
    for outputs, inputs in dict.fromkeys(shapes):
        weight = torch.randn(outputs, inputs, generator=random).to(device, dtype)
        norm = weight[0].contiguous()
        for each in dict.fromkeys((dtype, torch.float32)):
            x = torch.randn(_PROBE_ROWS, inputs, generator=random).to(device, each)
            products, norms = fixed_linear(x, weight), rms_norm(x, norm, config.rms_norm_eps)
            for part in _PROBE_PARTS:
                product, normed = (
                    fixed_linear(x[part], weight),
                    rms_norm(x[part], norm, config.rms_norm_eps),
                )
                if not (torch.equal(product, products[part]) and torch.equal(normed, norms[part])):
                    return False
    return True

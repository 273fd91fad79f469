"""The interface of attention over packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from quernstone.batching import PackedBatch
from quernstone.types import TokenArray


class HeadShape(NamedTuple):
    """The shape of a model's attention."""

    heads: int
    """Query heads."""
    kv_heads: int
    dim: int
    """Numbers per head."""


@dataclass(frozen=True, slots=True)
class PrefixKeys:
    """Keys and values of one shared prefix in one layer. Shape: (prefix tokens, kv heads, dim)."""

    key: Tensor
    value: Tensor

    def copy(self) -> PrefixKeys:
        """Copy out of the tensors that these are views of."""
        return PrefixKeys(self.key.clone(), self.value.clone())

    def append(self, other: PrefixKeys) -> PrefixKeys:
        """Return this prefix followed by `other`, which was computed with it as its prefix."""
        return PrefixKeys(torch.cat((self.key, other.key)), torch.cat((self.value, other.value)))


GroupKeys = list[PrefixKeys]
"""Keys and values, in one layer, of the prefix of each of a batch's groups."""


class BatchAttention(Protocol):
    """Attention for one batch, whose layout is prepared once for all layers."""

    def all_tokens(self, query: Tensor, key: Tensor, value: Tensor, prefixes: GroupKeys) -> Tensor:
        """Let every token attend to the prefix and to its sequence up to itself.

        Bidirectional attention covers the complete sequence.
        The results for padding rows after the batch's last token are undefined.
        Shapes: (tokens, heads, head_dim), with fewer heads in `key` and `value`.
        """

    def last_tokens(self, query: Tensor, key: Tensor, value: Tensor, prefixes: GroupKeys) -> Tensor:
        """Let only the last token of each sequence attend. `query` and result: (sequences, ...)."""


@dataclass(frozen=True, slots=True)
class AttentionMaker:
    """Creates the `BatchAttention` of a batch."""

    name: str
    """The name of the kernel, for `EngineInfo.attention`."""
    integers: Callable[[PackedBatch], list[TokenArray]]
    """Returns the arrays that `make` needs on the device."""
    make: Callable[[PackedBatch, Sequence[Tensor]], BatchAttention]
    """Creates the attention of a batch from its `integers` on the device."""
    replayable: bool
    """True if batches with equal numbers of tokens and sequences differ only in their integers, so
    that one CUDA graph computes them all."""
    reason: str = ""
    """Why it was chosen, for `EngineInfo.attention_reason`."""

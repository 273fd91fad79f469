"""What attention over packed sequences is, whoever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quernstone.batching import PackedBatch
from quernstone.types import TokenArray


@dataclass(frozen=True, slots=True)
class PrefixKeys:
    """Keys and values of one shared prefix in one layer. Shape: (prefix tokens, kv heads, dim)."""

    key: Tensor
    value: Tensor

    def copy(self) -> PrefixKeys:
        """The same apart from the tensors that these are views of."""
        return PrefixKeys(self.key.clone(), self.value.clone())

    def then(self, other: PrefixKeys) -> PrefixKeys:
        """This prefix with `other`, computed behind it, as one."""
        return PrefixKeys(torch.cat((self.key, other.key)), torch.cat((self.value, other.value)))


class BatchAttention(Protocol):
    """Attention for one batch; what depends on the layout alone is computed once."""

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """Every token attends to the prefix and to its sequence up to itself.

        There may be rows behind the batch's last token; what is returned for them means nothing.

        Args:
            query: Shape: (tokens, heads, head_dim)
            key: Shape: (tokens, kv heads, head_dim)
            value: Shape: (tokens, kv heads, head_dim)
            prefixes: One for each of the batch's groups.

        Returns:
            Shape: (tokens, heads, head_dim)
        """
        ...

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """Only the last token of each sequence attends. `query` and result: (sequences, ...)."""
        ...


class AttentionMaker(Protocol):
    """Makes the `BatchAttention` of a batch."""

    name: str
    """The kernel, as `EngineInfo.attention` names it."""
    replayable: bool
    """Whether batches of as many tokens and sequences differ in nothing but their integers, so that
    one recorded sequence of kernels computes them all."""

    def integers(self, batch: PackedBatch) -> list[TokenArray]:
        """What has to be on the device before `make`."""
        ...

    def make(self, batch: PackedBatch, integers: Sequence[Tensor]) -> BatchAttention:
        """The attention of a batch, of which `integers` are on the device."""
        ...


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tensor:
    """Join two attentions of the same queries over disjoint keys into attention over both.

    Args:
        out_a: Shape: (..., head_dim)
        lse_a: Log of the sum of exponentiated scores, float32. Shape: (...)
        out_b: Like `out_a`, over the other keys.
        lse_b: Like `lse_a`.
    """
    weight = torch.sigmoid(lse_a - lse_b).unsqueeze(-1)
    return torch.lerp(out_b.float(), out_a.float(), weight).to(out_a.dtype)

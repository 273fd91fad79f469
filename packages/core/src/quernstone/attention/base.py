"""The interface of attention over packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
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
    """Keys and values, in one layer, of the prefixes of all of a batch's groups, end to end.

    Shape of each: (prefix tokens, kv heads, dim), with any stride between tokens.
    """

    key: Tensor
    value: Tensor


def no_prefixes(like: Tensor, kv_heads: int) -> PrefixKeys:
    """Return the keys of no prefix, with the dtype of `like`. Its shape: (tokens, heads, dim)."""
    return PrefixKeys(like[:0, :kv_heads], like[:0, :kv_heads])


class BatchAttention(Protocol):
    """Attention for one batch, whose layout is prepared once for all layers."""

    source: Tensor | None
    """Where each row of keys comes from, if the keys and values that attention gets contain those
    of the prefixes; see `join_source`. None if attention gets those of the tokens alone."""

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """Let every token attend to the prefix and to its sequence up to itself.

        Bidirectional attention covers the complete sequence.
        The results for padding rows after the batch's last token are undefined.
        Shapes: (tokens, heads, head_dim), with fewer heads in `key` and `value`.
        """

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """Let only the last token of each sequence attend. `query` and result: (sequences, ...)."""


class ReplayBounds(NamedTuple):
    """The most that a batch may have to be computed by a CUDA graph."""

    longest: int
    """Tokens of the longest sequence."""
    longest_joined: int
    """Tokens of the longest sequence, with those of its prefix."""


@dataclass(frozen=True, slots=True)
class AttentionMaker:
    """Creates the `BatchAttention` of a batch."""

    name: str
    """The name of the kernel, for `EngineInfo.attention`."""
    integers: Callable[[PackedBatch], list[TokenArray]]
    """Returns the arrays that `make` needs on the device."""
    make: Callable[[PackedBatch, Sequence[Tensor]], BatchAttention]
    """Creates the attention of a batch from its `integers` on the device."""
    replay: Callable[[ReplayBounds, Sequence[Tensor]], BatchAttention] | None
    """Creates attention that depends on its `replay_integers` alone, so that one CUDA graph
    computes all batches within the same bounds. None if this attention cannot be replayed."""
    reason: str = ""
    """Why it was chosen, for `EngineInfo.attention_reason`."""


def join_source(batch: PackedBatch) -> TokenArray:
    """Lay out the keys of each sequence after those of its prefix, if it has one.

    Returns:
        For each row a token of the batch, or `-1 - row` for a row of the prefixes, which are end to
        end in the order of the groups.
    """
    own = np.diff(batch.cu_seqlens)
    first_prefix_rows = np.zeros(len(own), dtype=np.int64)
    start = 0
    for prefix, first, end in batch.groups:
        first_prefix_rows[first:end] = start
        start += len(prefix)
    token, prefix_row = join_rows(own, joined_lengths(batch), first_prefix_rows)
    return np.where(prefix_row < 0, token, -1 - prefix_row).astype(np.int32)


def join_rows(
    own: np.ndarray, joined: np.ndarray, first_prefix_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token of each joined row, or its row of the prefixes, which is -1 for tokens.

    Args:
        own: Tokens of each sequence. Shape: (sequences,)
        joined: The same with those of its prefix.
        first_prefix_rows: The first row of its prefix.
    """
    ends = np.cumsum(joined)
    offset = np.arange(ends[-1]) - np.repeat(ends - joined, joined)
    shared = np.repeat(joined - own, joined)
    token = np.repeat(np.cumsum(own) - own, joined) + offset - shared
    prefix_row = np.repeat(first_prefix_rows, joined) + offset
    return token, np.where(offset < shared, prefix_row, -1)


def joined_lengths(batch: PackedBatch) -> np.ndarray:
    """Return the tokens of each sequence, with those of its prefix. Shape: (sequences,)."""
    lengths: np.ndarray = np.diff(batch.cu_seqlens)
    for prefix, first, end in batch.groups:
        lengths[first:end] += len(prefix)
    return lengths

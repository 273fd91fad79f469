"""Attention by a varlen flash kernel on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from quernstone.attention.base import (
    AttentionMaker,
    PrefixKeys,
    ReplayBounds,
    join_rows,
    join_source,
    joined_lengths,
)
from quernstone.attention.flash import VarlenKernel
from quernstone.batching import PackedBatch
from quernstone.kernels import NO_ROW, REPEATED, merge_
from quernstone.types import TokenArray

# Longer prefixes are not copied. vLLM draws the same line.
_LONGEST_JOINED = 256
# In smaller batches, a further call takes longer than copying.
_FEW_TOKENS = 2048
# On an H200, our kernel took 4 to 10 us for graphs of up to so many tokens, which start one kernel,
# and flash-attn-3 took 10 to 11. With 1,088 tokens it took 27, and flash-attn-3 took 22.
_SMALL_GRAPH_TOKENS = 320


def _joins(batch: PackedBatch) -> bool:
    """Return whether to copy each prefix before the keys of its sequences.

    Then one call attends to both. Copying moves four numbers of a key per row of a prefix; merging
    two results moves six per token, with twice as many heads or more, and needs a second call.
    """
    shared = sum(len(prefix) * (end - first) for prefix, first, end in batch.groups)
    longest = max(len(prefix) for prefix, _, _ in batch.groups)
    own = batch.cu_seqlens[-1] - batch.cu_seqlens[batch.groups[0][1]]
    return longest <= _LONGEST_JOINED and 2 * shared <= 3 * max(own, _FEW_TOKENS)


def varlen_maker(
    name: str,
    kernel: VarlenKernel,
    *,
    causal: bool = True,
    reason: str = "",
    joins: Callable[[PackedBatch], bool] = _joins,
    small: VarlenKernel | None = None,
) -> AttentionMaker:
    """Return the maker of `VarlenAttention` with a kernel.

    `joins` decides by a batch whether to copy each prefix before the keys of its sequences. `small`
    is a kernel for CUDA graphs of few tokens.
    """

    def integers_of(batch: PackedBatch) -> list[TokenArray]:
        return _integers(batch, joins)

    def make(batch: PackedBatch, integers: Sequence[Tensor]) -> VarlenAttention:
        return VarlenAttention(_layout(batch, integers, joins), kernel, causal=causal)

    def replay(bounds: ReplayBounds, integers: Sequence[Tensor]) -> VarlenAttention:
        cu, cu_last, cu_keys, source = integers
        layout = _Layout(cu, cu_last, cu_keys, bounds.longest, bounds.longest_joined, source)
        chosen = kernel
        if small is not None and bounds.longest_joined <= _SMALL_GRAPH_TOKENS:
            chosen = small
        return VarlenAttention(layout, chosen, causal=causal)

    return AttentionMaker(name, integers_of, make, replay, reason)


def replay_integers(
    own: np.ndarray,
    joined: np.ndarray,
    first_prefix_tokens: np.ndarray,
    *,
    sequences: int,
    joined_rows: int,
) -> list[TokenArray]:
    """Return the arrays for `AttentionMaker.replay`, whose lengths depend on the bounds alone.

    Sequences that others begin with are part of the batch. Empty sequences pad it. Tokens after its
    last sequence attend to nothing, and their results are undefined.

    Args:
        own: Tokens of each sequence. Shape: (sequences,)
        joined: The same with those of its prefix.
        first_prefix_tokens: The first token of its prefix in the batch.
        sequences: Number of sequences with the padding.
        joined_rows: Number of keys with the padding.
    """
    bounds = np.full((2, sequences + 1), 0, dtype=np.int32)
    for row, lengths in zip(bounds, (own, joined), strict=True):
        ends = np.cumsum(lengths)
        row[1 : len(ends) + 1] = ends
        row[len(ends) + 1 :] = ends[-1]
    token, prefix_token = join_rows(own, joined, first_prefix_tokens)
    source = np.full(joined_rows, NO_ROW, dtype=np.int32)
    source[: len(token)] = np.where(prefix_token < 0, token, prefix_token + REPEATED)
    return [bounds[0], np.arange(sequences + 1, dtype=np.int32), bounds[1], source]


def _integers(batch: PackedBatch, joins: Callable[[PackedBatch], bool]) -> list[TokenArray]:
    """Return the bounds of sequences, of one query per sequence, and of what groups share."""
    bounds = np.asarray(batch.cu_seqlens, dtype=np.int32)
    found = [bounds, np.arange(len(bounds), dtype=np.int32)]
    if not batch.groups:
        return found
    if joins(batch):
        joined = np.cumsum([0, *joined_lengths(batch)], dtype=np.int32)
        return [*found, joined, join_source(batch)]
    return [*found, *_group_bounds(batch)]


class _Bounds(NamedTuple):
    """The bounds of the groups among the rows, the tokens or the keys of the prefixes."""

    start: int
    cu: Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """The layout of a batch on the device."""

    cu: Tensor
    """Bounds of the sequences."""
    cu_last: Tensor
    """Bounds of one query per sequence."""
    cu_keys: Tensor
    """Bounds of the sequences among the keys."""
    longest: int
    longest_keys: int
    source: Tensor | None = None
    """See `BatchAttention`."""
    groups: tuple[_Bounds, _Bounds, _Bounds] | None = None
    """Bounds of the groups among rows, tokens and keys, if prefixes get a call of their own."""


def _layout(
    batch: PackedBatch, integers: Sequence[Tensor], joins: Callable[[PackedBatch], bool]
) -> _Layout:
    cu, cu_last, *groups = integers
    longest = batch.max_seqlen
    if not batch.groups:
        return _Layout(cu, cu_last, cu, longest, longest)
    if joins(batch):
        cu_keys, source = groups
        return _Layout(cu, cu_last, cu_keys, longest, int(joined_lengths(batch).max()), source)
    row = batch.groups[0][1]  # the sequences of the groups are the last of the batch
    starts = (row, batch.cu_seqlens[row], 0)
    most = [int(np.diff(bounds).max()) for bounds in _group_bounds(batch)]
    rows, tokens, keys = map(_Bounds, starts, groups, most)
    return _Layout(cu, cu_last, cu, longest, longest, groups=(rows, tokens, keys))


class VarlenAttention:
    """Attention by one varlen flash kernel call per layer, or two with long shared prefixes."""

    def __init__(self, layout: _Layout, kernel: VarlenKernel, *, causal: bool) -> None:
        self._layout, self._kernel, self._causal = layout, kernel, causal
        self.source = layout.source

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        at = self._layout
        bounds = (at.cu, at.cu_keys, at.longest, at.longest_keys)
        own = self._kernel(query, key, value, *bounds, causal=self._causal)
        if prefixes is None or at.groups is None:
            return own[0]
        _, tokens, keys = at.groups
        return self._with_prefixes(*own, query, prefixes, tokens, keys)

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        at = self._layout
        bounds = (at.cu_last, at.cu_keys, 1, at.longest_keys)
        own = self._kernel(query, key, value, *bounds, causal=False)
        if prefixes is None or at.groups is None:
            return own[0]
        rows, _, keys = at.groups
        return self._with_prefixes(*own, query, prefixes, rows, keys)

    def _with_prefixes(
        self,
        out: Tensor,
        lse: Tensor,
        query: Tensor,
        prefixes: PrefixKeys,
        bounds: _Bounds,
        of_keys: _Bounds,
    ) -> Tensor:
        """Merge attention to the prefixes into the results of the queries that have one."""
        cu, longest = (bounds.cu, of_keys.cu), (bounds.longest, of_keys.longest)
        part = slice(bounds.start, None)
        keys = (prefixes.key, prefixes.value)
        shared = self._kernel(query[part], *keys, *cu, *longest, causal=False)
        merge_(out[part], lse[part], *shared)
        return out


def _group_bounds(batch: PackedBatch) -> list[TokenArray]:
    """Return the bounds of each group's sequences, of their tokens, and of its prefix's tokens.

    The first two start at the first sequence with a prefix.
    """
    row_start = batch.groups[0][1]
    rows = [row_start, *(end for _, _, end in batch.groups)]
    tokens = np.asarray(batch.cu_seqlens, dtype=np.int32)[rows]
    keys = np.cumsum([0, *(len(prefix) for prefix, _, _ in batch.groups)], dtype=np.int32)
    return [np.asarray(rows, dtype=np.int32) - np.int32(row_start), tokens - tokens[0], keys]

"""Attention by a varlen flash kernel on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from quernstone.attention.base import AttentionMaker, PrefixKeys, join_source, joined_lengths
from quernstone.attention.flash import VarlenKernel
from quernstone.batching import PackedBatch
from quernstone.kernels import merge_
from quernstone.types import TokenArray

# Longer prefixes are not copied. vLLM draws the same line.
_LONGEST_JOINED = 256
# In smaller batches, a further call takes longer than copying.
_FEW_TOKENS = 2048


def varlen_maker(
    name: str, kernel: VarlenKernel, *, causal: bool = True, reason: str = ""
) -> AttentionMaker:
    """Return the maker of `VarlenAttention` with a kernel."""
    make = partial(VarlenAttention, kernel=kernel, causal=causal)
    return AttentionMaker(name, _integers, make, replayable=True, reason=reason)


def _integers(batch: PackedBatch) -> list[TokenArray]:
    """Return the bounds of sequences, of one query per sequence, and of what groups share."""
    bounds = np.asarray(batch.cu_seqlens, dtype=np.int32)
    found = [bounds, np.arange(len(bounds), dtype=np.int32)]
    if not batch.groups:
        return found
    if _joins(batch):
        joined = np.cumsum([0, *joined_lengths(batch)], dtype=np.int32)
        return [*found, joined, join_source(batch)]
    return [*found, *_group_bounds(batch)]


def _joins(batch: PackedBatch) -> bool:
    """Return whether to copy each prefix before the keys of its sequences.

    Then one call attends to both. Copying moves four numbers of a key per row of a prefix; merging
    two results moves six per token, with twice as many heads or more, and needs a second call.
    """
    shared = sum(len(prefix) * (end - first) for prefix, first, end in batch.groups)
    longest = max(len(prefix) for prefix, _, _ in batch.groups)
    own = batch.cu_seqlens[-1] - batch.cu_seqlens[batch.groups[0][1]]
    return longest <= _LONGEST_JOINED and 2 * shared <= 3 * max(own, _FEW_TOKENS)


class VarlenAttention:
    """Attention by one varlen flash kernel call per layer, or two with long shared prefixes."""

    def __init__(
        self,
        batch: PackedBatch,
        integers: Sequence[Tensor],
        kernel: VarlenKernel,
        *,
        causal: bool = True,
    ) -> None:
        self._kernel, self._causal = kernel, causal
        self._max = self._max_keys = batch.max_seqlen
        self._cu, self._cu_last, *groups = integers
        self._cu_keys = self._cu
        self.source: Tensor | None = None
        if batch.groups and _joins(batch):
            self._cu_keys, self.source = groups
            self._max_keys = int(joined_lengths(batch).max())
        elif batch.groups:  # their sequences are the last of the batch
            row = batch.groups[0][1]
            starts = (row, batch.cu_seqlens[row], 0)
            longest = [int(np.diff(bounds).max()) for bounds in _group_bounds(batch)]
            self._rows, self._tokens, self._keys = map(_Bounds, starts, groups, longest)

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        bounds = (self._cu, self._cu_keys, self._max, self._max_keys)
        own = self._kernel(query, key, value, *bounds, causal=self._causal)
        if prefixes is None or self.source is not None:
            return own[0]
        return self._with_prefixes(*own, query, prefixes, self._tokens)

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        bounds = (self._cu_last, self._cu_keys, 1, self._max_keys)
        own = self._kernel(query, key, value, *bounds, causal=False)
        if prefixes is None or self.source is not None:
            return own[0]
        return self._with_prefixes(*own, query, prefixes, self._rows)

    def _with_prefixes(
        self, out: Tensor, lse: Tensor, query: Tensor, prefixes: PrefixKeys, bounds: _Bounds
    ) -> Tensor:
        """Merge attention to the prefixes into the results of the queries that have one."""
        cu, longest = (bounds.cu, self._keys.cu), (bounds.longest, self._keys.longest)
        part = slice(bounds.start, None)
        keys = (prefixes.key, prefixes.value)
        shared = self._kernel(query[part], *keys, *cu, *longest, causal=False)
        merge_(out[part], lse[part], *shared)
        return out


class _Bounds(NamedTuple):
    """The bounds of the groups among the rows, the tokens or the keys of the prefixes."""

    start: int
    cu: Tensor
    longest: int


def _group_bounds(batch: PackedBatch) -> list[TokenArray]:
    """Return the bounds of each group's sequences, of their tokens, and of its prefix's tokens.

    The first two start at the first sequence with a prefix.
    """
    row_start = batch.groups[0][1]
    rows = [row_start, *(end for _, _, end in batch.groups)]
    tokens = np.asarray(batch.cu_seqlens, dtype=np.int32)[rows]
    keys = np.cumsum([0, *(len(prefix) for prefix, _, _ in batch.groups)], dtype=np.int32)
    return [np.asarray(rows, dtype=np.int32) - np.int32(row_start), tokens - tokens[0], keys]

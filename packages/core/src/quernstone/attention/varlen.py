"""Attention by a varlen flash kernel on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import AttentionMaker, GroupKeys
from quernstone.attention.flash import VarlenKernel
from quernstone.batching import PackedBatch
from quernstone.kernels import merge_
from quernstone.types import TokenArray


def varlen_maker(
    name: str, kernel: VarlenKernel, *, causal: bool = True, reason: str = ""
) -> AttentionMaker:
    """Return the maker of `VarlenAttention` with a kernel."""
    make = partial(VarlenAttention, kernel=kernel, causal=causal)
    return AttentionMaker(name, _integers, make, replayable=True, reason=reason)


def _integers(batch: PackedBatch) -> list[TokenArray]:
    """Return the bounds of sequences, of one query per sequence, and of any groups."""
    bounds = np.asarray(batch.cu_seqlens, dtype=np.int32)
    found = [bounds, np.arange(len(bounds), dtype=np.int32)]
    return [*found, *_group_bounds(batch)] if batch.groups else found


class VarlenAttention:
    """Attention by one varlen flash kernel call per layer, plus one for shared prefixes."""

    def __init__(
        self,
        batch: PackedBatch,
        integers: Sequence[Tensor],
        kernel: VarlenKernel,
        *,
        causal: bool = True,
    ) -> None:
        self._kernel, self._causal = kernel, causal
        self._max = batch.max_seqlen
        self._cu, self._cu_last, *groups = integers
        if batch.groups:  # their sequences are the last of the batch
            row = batch.groups[0][1]
            starts = (row, batch.cu_seqlens[row], 0)
            longest = [int(np.diff(bounds).max()) for bounds in _group_bounds(batch)]
            self._rows, self._tokens, self._keys = map(_Bounds, starts, groups, longest)

    def all_tokens(self, query: Tensor, key: Tensor, value: Tensor, prefixes: GroupKeys) -> Tensor:
        """See `BatchAttention`."""
        bounds = (self._cu, self._cu, self._max, self._max)
        own = self._kernel(query, key, value, *bounds, causal=self._causal)
        return self._with_prefixes(*own, query, prefixes, self._tokens) if prefixes else own[0]

    def last_tokens(self, query: Tensor, key: Tensor, value: Tensor, prefixes: GroupKeys) -> Tensor:
        """See `BatchAttention`."""
        own = self._kernel(query, key, value, self._cu_last, self._cu, 1, self._max, causal=False)
        return self._with_prefixes(*own, query, prefixes, self._rows) if prefixes else own[0]

    def _with_prefixes(
        self, out: Tensor, lse: Tensor, query: Tensor, prefixes: GroupKeys, bounds: _Bounds
    ) -> Tensor:
        """Merge attention to the prefixes into the results of the queries that have one."""
        key = torch.cat([prefix.key for prefix in prefixes])
        value = torch.cat([prefix.value for prefix in prefixes])
        cu, longest = (bounds.cu, self._keys.cu), (bounds.longest, self._keys.longest)
        part = slice(bounds.start, None)
        shared = self._kernel(query[part], key, value, *cu, *longest, causal=False)
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

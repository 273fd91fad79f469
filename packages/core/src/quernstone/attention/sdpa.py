"""Attention by torch's own operations, for any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import AttentionMaker, PrefixKeys
from quernstone.attention.head_order import HeadOrder
from quernstone.batching import PackedBatch

# Tokens per block of scores, which skips most of the scores above the diagonal.
_SCORE_TOKENS = 128
# Larger blocks for long sequences: oneDNN compiles two kernels for each block, and would compile
# them again in every layer if they exceeded its cache.
_LONG, _LONG_SCORE_TOKENS = 4096, 256
# Maximum number of scores per head in a bucket of several sequences.
_BUCKET_SCORES = 1 << 18
# Maximum number of scores in memory on a CPU, unless one head has more. In bfloat16 they fill the
# L2 caches of two cores. From 32 MB on, malloc would also map new pages for every use.
_CPU_SCORES = 1 << 20
# Rows of scores are padded to a multiple of this, because torch's softmax in bfloat16 takes twice
# as long on rows that do not fill its vectors.
_WIDTH_STEP = 32
# Sequences that are shorter by up to this share, or number of tokens, join a bucket. The padding
# costs time in attention only.
_BUCKET_SLACK = 0.15
_BUCKET_TOKENS = 8
# Lengths are padded to multiples of this, because oneDNN compiles kernels for every shape.
_LENGTH_STEP = 8


def sdpa_maker(device: torch.device, *, causal: bool = True, reason: str = "") -> AttentionMaker:
    """Return the maker of `SdpaAttention`, whose buckets are planned on the host."""

    def make(batch: PackedBatch, _integers: Sequence[Tensor]) -> SdpaAttention:
        return SdpaAttention(batch, device, causal=causal)

    return AttentionMaker("sdpa", lambda _batch: [], make, replay=None, reason=reason)


class SdpaAttention:
    """Attention by matrix products over buckets of sequences with similar length and equal prefix.

    Buckets are padded on the right, which a mask hides from the real tokens. The scores of a shared
    prefix and of a sequence's own keys are side by side, so that one softmax covers both.
    """

    def __init__(self, batch: PackedBatch, device: torch.device, *, causal: bool = True) -> None:
        self._causal = causal
        self.source: Tensor | None = None
        self._buckets = list(_buckets(batch, device))
        self._prefix_lengths = [len(prefix) for prefix, _, _ in batch.groups]
        self._tokens = batch.cu_seqlens[-1]
        self._future = cache(_future)  # for all layers

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        out = query.new_empty(query.shape)
        out[self._tokens :] = 0
        shared = self._by_head(prefixes)
        for bucket in self._buckets:
            q, k, v = (bucket.order.by_head(x, key.shape[1]) for x in (query, key, value))
            attended = self._attend_in_blocks(q, k, v, bucket, bucket.prefix(shared))
            bucket.order.by_token(attended, out)
        return out

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: PrefixKeys | None
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.zeros_like(query)
        kv_heads = key.shape[1]
        shared = self._by_head(prefixes)
        for bucket in self._buckets:
            k, v = (bucket.order.by_head(x, kv_heads) for x in (key, value))
            q = query[bucket.rows].unflatten(1, (kv_heads, -1)).transpose(0, 1).contiguous()
            attended = torch.empty_like(q)
            mask = self._last_mask(bucket, k.shape[2])
            attend(q, k, v, bucket.prefix(shared), mask, out=attended)
            out[bucket.rows] = attended.transpose(0, 1).flatten(1, 2)
        return out

    def _last_mask(self, bucket: Bucket, _length: int) -> Tensor | None:
        """Return the mask of the keys of the last tokens; None without one. See `attend`."""
        return bucket.padding_mask

    def _by_head(self, prefixes: PrefixKeys | None) -> list[HeadPrefix]:
        """Split the prefixes of the groups, and order each by head."""
        if prefixes is None:
            return []
        both = (x.split(self._prefix_lengths) for x in (prefixes.key, prefixes.value))
        return [
            HeadPrefix(*(x.transpose(0, 1).contiguous() for x in each))
            for each in zip(*both, strict=True)
        ]

    def _attend_in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, bucket: Bucket, prefix: HeadPrefix | None
    ) -> Tensor:
        """Compute a padded bucket in blocks of some tokens and of several heads."""
        out = torch.empty_like(query)
        length = key.shape[2]
        repeat = query.shape[2] // length
        for start in range(0, length, bucket.score_tokens):
            end = min(start + bucket.score_tokens, length)
            rows = slice(start * repeat, end * repeat)
            keys, mask = length, bucket.padding_mask
            if self._causal:
                keys = end
                mask = self._future(end - start, repeat, query.dtype, query.device)
            for heads in _head_blocks(query[:, :, rows], keys, prefix):
                attend(
                    query[heads, :, rows],
                    key[heads, :, :keys],
                    value[heads, :, :keys],
                    None if prefix is None else HeadPrefix(prefix.key[heads], prefix.value[heads]),
                    mask,
                    out=out[heads, :, rows],
                )
        return out


def _future(rows: int, repeat: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask with -inf at later keys among the last `rows` keys; see `attend`."""
    mask = torch.full((rows, rows), -torch.inf, dtype=dtype, device=device)
    return mask.triu_(1).repeat_interleave(repeat, 0)


class HeadPrefix(NamedTuple):
    """Keys and values of a shared prefix by head. Shape: (kv heads, prefix tokens, dim)."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Bucket:
    """Consecutive sequences of similar length and equal prefix, padded to the longest."""

    group: int | None
    """The index of their group in the batch, if they have a prefix."""
    rows: slice
    """The sequences of the batch that it contains."""
    score_tokens: int
    """Tokens per block of scores."""
    order: HeadOrder
    padding_mask: Tensor | None
    """0 for real keys, -inf for padding; None without padding. Shape: (1, sequences, 1, length)"""

    def prefix(self, prefixes: list[HeadPrefix]) -> HeadPrefix | None:
        """Select its prefix from those of the batch's groups."""
        return None if self.group is None else prefixes[self.group]


def _buckets(batch: PackedBatch, device: torch.device) -> Iterator[Bucket]:
    without_prefix = batch.groups[0][1] if batch.groups else len(batch.order)
    yield from _buckets_of(batch, 0, without_prefix, None, device)
    for group, (_, first, end) in enumerate(batch.groups):
        yield from _buckets_of(batch, first, end, group, device)


def _buckets_of(
    batch: PackedBatch, first: int, end: int, group: int | None, device: torch.device
) -> Iterator[Bucket]:
    """Yield the buckets of the sequences with one prefix, which are sorted longest first."""
    lengths = np.diff(batch.cu_seqlens)
    prefix = 0 if group is None else len(batch.groups[group][0])
    while first < end:
        longest = int(lengths[first])
        shortest = longest - max(_BUCKET_TOKENS, int(longest * _BUCKET_SLACK))
        padded = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        score_tokens = min(padded, _SCORE_TOKENS if padded <= _LONG else _LONG_SCORE_TOKENS)
        stop = min(end, first + max(1, _BUCKET_SCORES // (score_tokens * (prefix + padded))))
        bucket_end = first + 1
        while bucket_end < stop and lengths[bucket_end] >= shortest:
            bucket_end += 1
        bucket_end = first + _round_down(bucket_end - first)
        starts = np.asarray(batch.cu_seqlens[first:bucket_end])[:, None]
        places = np.arange(padded)
        real = places < lengths[first:bucket_end, None]
        tokens = np.where(real, starts + places, starts)  # padding repeats the first token
        order, mask = HeadOrder(tokens, real, device), _padding_mask(real, device)
        yield Bucket(group, slice(first, bucket_end), score_tokens, order, mask)
        first = bucket_end


def _round_down(count: int) -> int:
    """Round down to one of 1, 2, 3, 4, 6, 8, 12, 16, ..., to limit the number of shapes."""
    power = 1 << (count.bit_length() - 1)
    between = power + power // 2
    return between if count >= between else power


def _padding_mask(real: np.ndarray, device: torch.device) -> Tensor | None:
    if real.all():
        return None
    padding = torch.from_numpy(~real)[None, :, None]
    return torch.zeros(padding.shape).masked_fill_(padding, -torch.inf).to(device)


def _head_blocks(query: Tensor, keys: int, prefix: HeadPrefix | None) -> Iterator[slice]:
    """Split the heads so that the scores of each part fit in a CPU's cache; on others, do not."""
    heads, sequences, rows, _ = query.shape
    width = keys if prefix is None else keys + prefix.key.shape[1]
    size = heads
    while query.is_cpu and size % 2 == 0 and size * sequences * rows * width > _CPU_SCORES:
        size //= 2
    for first in range(0, heads, size):
        yield slice(first, first + size)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: HeadPrefix | None,
    mask: Tensor | None,
    *,
    out: Tensor,
) -> None:
    """Compute attention by matrix products, with softmax in float32.

    Shapes are (kv heads, sequences, rows, dim) of `query` and `out`, and with keys in place of rows
    of `key` and `value`. The mask is added to the scores of the last keys, and broadcast to
    (kv heads, sequences, rows, number of these keys).
    """
    kv_heads, n, rows, dim = query.shape
    shared = 0 if prefix is None else prefix.key.shape[1]
    width = shared + key.shape[2]
    scores = query.new_empty(kv_heads, n, rows, -(-width // _WIDTH_STEP) * _WIDTH_STEP)
    scores[..., width:] = -torch.inf
    by_sequence, by_head = scores.flatten(0, 1), scores.flatten(1, 2)
    flat = query.contiguous().view(kv_heads * n, rows, dim)
    _scaled_product(flat, key.flatten(0, 1), by_sequence[:, :, shared:width])
    if prefix is not None:
        _scaled_product(flat.view(kv_heads, -1, dim), prefix.key, by_head[:, :, :shared])
    if mask is not None:
        scores[..., width - mask.shape[-1] : width].add_(mask)
    weights = torch.softmax(scores, -1)
    result = out if out.is_contiguous() else torch.empty_like(query)
    by_sequence, by_head = weights.flatten(0, 1), weights.flatten(1, 2)
    torch.bmm(by_sequence[:, :, shared:width], value.flatten(0, 1), out=result.view(-1, rows, dim))
    if prefix is not None:
        result.view(kv_heads, -1, dim).baddbmm_(by_head[:, :, :shared], prefix.value)
    if result is not out:
        out.copy_(result)


def _scaled_product(query: Tensor, key: Tensor, out: Tensor) -> None:
    scale = query.shape[-1] ** -0.5
    # torch makes inputs of oneDNN contiguous; after the transpose that takes ten times as long.
    transposed = key.contiguous().transpose(1, 2)
    torch.baddbmm(out, query, transposed, beta=0, alpha=scale, out=out)

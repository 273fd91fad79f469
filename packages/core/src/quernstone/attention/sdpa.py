"""Attention by torch's own operations, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import PrefixKeys, merge
from quernstone.batching import PackedBatch

# Up to this many keys plain matrix products beat the fused CPU kernel: in bfloat16 1.5x at 100
# tokens, 2x at 512, equal near 8,192 (2 cores with AVX512-BF16).
_MATMUL_KEYS = 4096
# Rows of scores held at a time by the matrix-product form: they stay in the cache, and the upper
# half of a causal mask is mostly skipped.
_SCORE_ROWS = 128
# Tokens whose attention to a shared prefix is computed and merged at a time.
_PREFIX_ROWS = 512
# Sequences of up to this much shorter length join a padded group. Padding costs attention only.
_GROUP_SLACK = 0.15
_GROUP_TOKENS = 8


class SdpaAttention:
    """Attention by matrix products or torch's CPU flash kernel, sequences grouped by length.

    A group is padded on the right inside attention only: under a causal mask no real token sees
    what follows it, so no mask is needed for the padding.
    """

    def __init__(self, batch: PackedBatch, device: torch.device) -> None:
        self._bounds = batch.cu_seqlens
        self._groups = batch.groups
        self._device = device
        self._buckets = _length_buckets(batch.cu_seqlens, device)

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:2], dtype=torch.float32) if self._groups else None
        for bucket in self._buckets:
            q, k, v = (bucket.pad(x) for x in (query, key, value))
            bucket_out, bucket_lse = _causal(q, k, v)
            bucket.unpad(bucket_out, out)
            if lse is not None:
                bucket.unpad(bucket_lse, lse)
        if lse is not None:
            for (_, first, end), prefix in zip(self._groups, prefixes, strict=True):
                tokens = slice(self._bounds[first], self._bounds[end])
                _merge_prefix(query[tokens], out[tokens], lse[tokens], prefix)
        return out

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:2], dtype=torch.float32)
        for bucket in self._buckets:
            k, v = bucket.pad(key), bucket.pad(value)
            q = query[bucket.rows].unsqueeze(2)
            bucket_out, bucket_lse = _products(q, k, v, bucket.padding_mask)
            out[bucket.rows], lse[bucket.rows] = bucket_out.squeeze(2), bucket_lse.squeeze(2)
        for (_, first, end), prefix in zip(self._groups, prefixes, strict=True):
            _merge_prefix(query[first:end], out[first:end], lse[first:end], prefix)
        return out


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Neighbouring sequences of similar length, padded to the longest of them."""

    rows: slice
    """Sequences of the batch."""
    tokens: slice
    """Their tokens in the packed batch."""
    length: int
    """Tokens of the longest."""
    gather: Tensor | None
    """Packed position for each padded position; None when nothing needs padding."""
    scatter: Tensor | None
    """Padded position for each packed position."""
    padding_mask: Tensor | None
    """0 where a key is real and -inf where it is padding. Shape: (sequences, 1, 1, length)"""

    def pad(self, x: Tensor) -> Tensor:
        """(tokens, heads, dim) of the batch -> (sequences, heads, length, dim) of the bucket."""
        flat = x[self.tokens] if self.gather is None else x.index_select(0, self.gather)
        padded: Tensor = flat.unflatten(0, (-1, self.length))
        return padded.transpose(1, 2)

    def unpad(self, x: Tensor, out: Tensor) -> None:
        """Write (sequences, heads, length, ...) of the bucket into (tokens, heads, ...)."""
        flat = x.transpose(1, 2).flatten(0, 1)
        out[self.tokens] = flat if self.scatter is None else flat.index_select(0, self.scatter)


def _length_buckets(bounds: list[int], device: torch.device) -> list[_Bucket]:
    lengths = np.diff(bounds)
    buckets = []
    first = 0
    while first < len(lengths):
        longest = int(lengths[first])
        shortest = longest - max(_GROUP_TOKENS, int(longest * _GROUP_SLACK))
        end = first + 1
        while end < len(lengths) and shortest <= lengths[end] <= longest:
            end += 1
        buckets.append(_bucket(bounds, lengths, first, end, device))
        first = end
    return buckets


def _bucket(
    bounds: list[int], lengths: np.ndarray, first: int, end: int, device: torch.device
) -> _Bucket:
    rows, own = slice(first, end), lengths[first:end]
    tokens, longest = slice(bounds[first], bounds[end]), int(own[0])
    if own.min() == longest:
        return _Bucket(rows, tokens, longest, None, None, None)
    place = np.arange(longest)
    real = place < own[:, None]
    starts = np.asarray(bounds[first:end])[:, None]
    gather = np.where(real, starts + place, starts)
    mask = torch.zeros(len(own), 1, 1, longest)
    mask[~torch.from_numpy(real)[:, None, None, :]] = -torch.inf
    return _Bucket(
        rows,
        tokens,
        longest,
        torch.from_numpy(gather.ravel()).to(device),
        torch.from_numpy(np.flatnonzero(real)).to(device),
        mask.to(device),
    )


def _causal(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention and its log-sum-exp. Shape: (sequences, heads, length, dim)."""
    length = query.shape[2]
    if query.device.type == "cpu" and length > _MATMUL_KEYS:
        return _cpu_flash(query, key, value, causal=True)
    parts = []
    for start in range(0, length, _SCORE_ROWS):
        end = min(start + _SCORE_ROWS, length)
        future = torch.full((end - start, end), -torch.inf, device=query.device).triu_(start + 1)
        parts.append(_products(query[:, :, start:end], key[:, :, :end], value[:, :, :end], future))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([out for out, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)


def _merge_prefix(query: Tensor, out: Tensor, lse: Tensor, prefix: PrefixKeys) -> None:
    """Add the prefix's keys to an attention over own keys, in place and block by block."""
    k, v = (x.transpose(0, 1).unsqueeze(0) for x in (prefix.key, prefix.value))
    fused = query.device.type == "cpu" and k.shape[2] > _MATMUL_KEYS
    block = len(query) if fused else _PREFIX_ROWS
    for start in range(0, len(query), block):
        at = slice(start, start + block)
        q = query[at].transpose(0, 1).unsqueeze(0)
        shared = _cpu_flash(q, k, v, causal=False) if fused else _products(q, k, v, None)
        prefix_out, prefix_lse = (x.squeeze(0).transpose(0, 1) for x in shared)
        out[at] = merge(out[at], lse[at], prefix_out, prefix_lse)


def _products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention by two matrix products, softmax in float32.

    Args:
        query: Shape: (sequences, heads, queries, dim)
        key: Shape: (sequences, kv heads, keys, dim)
        value: Like `key`.
        mask: Added to the scores; broadcast to (sequences, heads, queries, keys).

    Returns:
        The result, shaped like `query`, and the log-sum-exp. Shape: (sequences, heads, queries)
    """
    n, heads, rows, dim = query.shape
    kv_heads = key.shape[1]
    # Query heads of one key/value head are stacked along the rows: no key is ever repeated.
    stacked = query.reshape(n, kv_heads, heads // kv_heads * rows, dim)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(n, heads, rows, -1).float()
    scores.mul_(dim**-0.5)
    if mask is not None:
        scores.add_(mask)
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    stacked_weights = weights.to(query.dtype).view(n, kv_heads, -1, key.shape[2])
    out = torch.matmul(stacked_weights, value).view(n, heads, rows, dim)
    return (out / total).to(query.dtype), (top + total.log()).squeeze(-1)


def _cpu_flash(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """The kernel behind `scaled_dot_product_attention` on CPUs, called for its log-sum-exp."""
    n, heads, rows, dim = query.shape
    kv_heads = key.shape[1]
    repeat = heads // kv_heads
    folded = query.reshape(n * kv_heads, repeat, rows, dim)
    k, v = (x.reshape(n * kv_heads, 1, -1, dim).expand(-1, repeat, -1, -1) for x in (key, value))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(folded, k, v, 0.0, causal)
    return out.reshape(n, heads, rows, dim), lse.reshape(n, heads, rows)

"""Attention by torch's own operations, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import PrefixKeys
from quernstone.batching import PackedBatch

# Rows of scores computed at a time: most of what lies above the diagonal is left out.
_SCORE_ROWS = 128
# Scores held at a time, per head: with 16 heads in bfloat16 they take 2 MiB.
_SCORES = 1 << 16
# Sequences of up to this much shorter length join a padded bucket. Padding costs attention only.
_BUCKET_SLACK = 0.15
_BUCKET_TOKENS = 8


class SdpaAttention:
    """Attention by matrix products; sequences of similar length and equal prefix are one bucket.

    A bucket is padded on the right inside attention only: under a causal mask no real token sees
    what follows it. The scores of a shared prefix and those of a sequence's own keys are written
    side by side, so that one softmax covers both and the prefix is never copied.
    """

    def __init__(self, batch: PackedBatch, device: torch.device) -> None:
        self._buckets = list(_buckets(batch, device))

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.empty_like(query)
        kv_heads = key.shape[1]
        repeat = query.shape[1] // kv_heads
        for bucket in self._buckets:
            q, k, v = (bucket.pad(x, kv_heads) for x in (query, key, value))
            attended = torch.empty_like(q)
            for start in range(0, bucket.length, bucket.score_rows):
                end = min(start + bucket.score_rows, bucket.length)
                rows = slice(start * repeat, end * repeat)
                attended[:, :, rows] = _attend(
                    q[:, :, rows],
                    k[:, :, :end],
                    v[:, :, :end],
                    None if bucket.group is None else prefixes[bucket.group],
                    _future(end - start, repeat, query),
                )
            bucket.unpad(attended, out)
        return out

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.empty_like(query)
        kv_heads = key.shape[1]
        for bucket in self._buckets:
            k, v = (bucket.pad(x, kv_heads) for x in (key, value))
            q = query[bucket.rows].unflatten(1, (kv_heads, -1)).transpose(0, 1)
            prefix = None if bucket.group is None else prefixes[bucket.group]
            attended = _attend(q, k, v, prefix, bucket.padding_mask)
            out[bucket.rows] = attended.transpose(0, 1).flatten(1, 2)
        return out


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Neighbouring sequences of similar length and equal prefix, padded to the longest of them."""

    group: int | None
    """Which of the batch's groups they belong to, if any."""
    rows: slice
    """Sequences of the batch."""
    tokens: slice
    """Their tokens in the packed batch."""
    length: int
    """Tokens of the longest."""
    score_rows: int
    """Rows of scores to compute at a time."""
    gather: Tensor | None
    """Packed position for each padded position; None when nothing needs padding."""
    scatter: Tensor | None
    """Padded position for each packed position."""
    padding_mask: Tensor | None
    """0 where a key is real and -inf where it is padding. Shape: (1, sequences, 1, length)"""

    def pad(self, x: Tensor, kv_heads: int) -> Tensor:
        """(tokens, heads, dim) of the batch -> (kv heads, sequences, rows, dim) of the bucket.

        The heads that share a key/value head are rows of it, token by token.
        """
        flat = x[self.tokens] if self.gather is None else x.index_select(0, self.gather)
        shaped = flat.unflatten(0, (-1, self.length)).unflatten(2, (kv_heads, -1))
        by_head: Tensor = shaped.permute(2, 0, 1, 3, 4).flatten(2, 3)
        return by_head.contiguous()

    def unpad(self, x: Tensor, out: Tensor) -> None:
        """Write (kv heads, sequences, rows, dim) of the bucket into (tokens, heads, dim)."""
        shaped = x.unflatten(2, (self.length, -1)).permute(1, 2, 0, 3, 4)
        flat = shaped.flatten(0, 1).flatten(1, 2)
        out[self.tokens] = flat if self.scatter is None else flat.index_select(0, self.scatter)


def _buckets(batch: PackedBatch, device: torch.device) -> Iterator[_Bucket]:
    lengths = np.diff(batch.cu_seqlens)
    alone = batch.groups[0][1] if batch.groups else len(lengths)
    yield from _buckets_of(batch.cu_seqlens, lengths, 0, alone, None, 0, device)
    for group, (prefix, first, end) in enumerate(batch.groups):
        yield from _buckets_of(batch.cu_seqlens, lengths, first, end, group, len(prefix), device)


def _buckets_of(
    bounds: list[int],
    lengths: np.ndarray,
    first: int,
    end: int,
    group: int | None,
    prefix: int,
    device: torch.device,
) -> Iterator[_Bucket]:
    """Buckets of the sequences of one prefix; these come longest first."""
    while first < end:
        longest = int(lengths[first])
        shortest = longest - max(_BUCKET_TOKENS, int(longest * _BUCKET_SLACK))
        keys = prefix + longest
        score_rows = min(longest, _SCORE_ROWS)
        stop = min(end, first + max(1, _SCORES // (score_rows * keys)))
        behind = first + 1
        while behind < stop and lengths[behind] >= shortest:
            behind += 1
        rows, tokens = slice(first, behind), slice(bounds[first], bounds[behind])
        padding = _padding(bounds, lengths, first, behind, device)
        yield _Bucket(group, rows, tokens, longest, score_rows, *padding)
        first = behind


def _padding(
    bounds: list[int], lengths: np.ndarray, first: int, end: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`gather`, `scatter` and `padding_mask` of a bucket."""
    own, longest = lengths[first:end], int(lengths[first])
    if own.min() == longest:
        return None, None, None
    place = np.arange(longest)
    real = place < own[:, None]
    starts = np.asarray(bounds[first:end])[:, None]
    gather = torch.from_numpy(np.where(real, starts + place, starts).ravel())
    scatter = torch.from_numpy(np.flatnonzero(real))
    mask = torch.zeros(1, len(own), 1, longest).masked_fill_(
        ~torch.from_numpy(real)[:, None], -torch.inf
    )
    return gather.to(device), scatter.to(device), mask.to(device)


def _future(rows: int, repeat: int, like: Tensor) -> Tensor:
    """-inf at the keys behind a row's own, among the last `rows` keys; see `_attend`."""
    mask = torch.full((rows, rows), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
    return mask.repeat_interleave(repeat, 0)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, prefix: PrefixKeys | None, mask: Tensor | None
) -> Tensor:
    """Attention by matrix products, softmax in float32.

    Args:
        query: Shape: (kv heads, sequences, rows, dim)
        key: Shape: (kv heads, sequences, keys, dim)
        value: Like `key`.
        prefix: Further keys and values, of all sequences.
        mask: Added to the scores of the last keys; broadcast to (kv heads, sequences, rows, keys
            that it covers).

    Returns:
        Shaped like `query`.
    """
    kv_heads, n, rows, dim = query.shape
    shared = 0 if prefix is None else len(prefix.key)
    scores = query.new_empty(kv_heads, n, rows, shared + key.shape[2])
    by_sequence, by_head = scores.flatten(0, 1), scores.flatten(1, 2)
    flat = query.contiguous().view(kv_heads * n, rows, dim)
    _scaled_product(flat, key.flatten(0, 1), by_sequence[:, :, shared:])
    if prefix is not None:
        _scaled_product(
            flat.view(kv_heads, n * rows, dim), prefix.key.transpose(0, 1), by_head[:, :, :shared]
        )
    if mask is not None:
        scores[..., -mask.shape[-1] :].add_(mask)
    weights = torch.softmax(scores, -1)
    out = torch.bmm(weights.flatten(0, 1)[:, :, shared:], value.flatten(0, 1))
    out = out.view(kv_heads, n * rows, dim)
    if prefix is not None:
        out = torch.baddbmm(out, weights.flatten(1, 2)[:, :, :shared], prefix.value.transpose(0, 1))
    return out.view(kv_heads, n, rows, dim)


def _scaled_product(query: Tensor, key: Tensor, out: Tensor) -> None:
    scale = query.shape[-1] ** -0.5
    torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=scale, out=out)

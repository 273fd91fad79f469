"""Attention by torch's own operations, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import PrefixKeys
from quernstone.batching import PackedBatch
from quernstone.types import TokenArray

# Rows of scores computed at a time: most of what lies above the diagonal is left out.
_SCORE_ROWS = 128
# Scores held at a time, per head: with 16 heads in bfloat16 they take 8 MiB.
_SCORES = 1 << 18
# Rows of scores are filled up to a multiple of this: torch's softmax in bfloat16 takes twice as
# long where its vectors do not fit.
_WIDTH_STEP = 32
# Sequences of up to this much shorter length join a padded bucket. Padding costs attention only.
_BUCKET_SLACK = 0.15
_BUCKET_TOKENS = 8
# Lengths are padded to multiples of this, and the sequences of a bucket are one of few numbers:
# oneDNN compiles its kernels for every shape.
_LENGTH_STEP = 8


class SdpaMaker:
    """Makes a `SdpaAttention`, which plans its buckets on the host."""

    name = "sdpa"
    replayable = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def integers(self, batch: PackedBatch) -> list[TokenArray]:  # noqa: ARG002 - see `AttentionMaker`
        """See `AttentionMaker`."""
        return []

    def make(self, batch: PackedBatch, integers: Sequence[Tensor]) -> SdpaAttention:  # noqa: ARG002
        """See `AttentionMaker`."""
        return SdpaAttention(batch, self._device)


class SdpaAttention:
    """Attention by matrix products; sequences of similar length and equal prefix are one bucket.

    A bucket is padded on the right inside attention only: under a causal mask no real token sees
    what follows it. The scores of a shared prefix and those of a sequence's own keys are written
    side by side, so that one softmax covers both and the prefix is never copied.
    """

    def __init__(self, batch: PackedBatch, device: torch.device) -> None:
        self._buckets = list(_buckets(batch, device))
        self._tokens = batch.cu_seqlens[-1]
        self._masks: dict[int, Tensor] = {}

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.empty_like(query)
        out[self._tokens :] = 0
        for bucket in self._buckets:
            q, k, v = (bucket.pad(x, key.shape[1]) for x in (query, key, value))
            prefix = None if bucket.group is None else prefixes[bucket.group]
            bucket.unpad(self._causal(bucket, q, k, v, prefix), out)
        return out

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        out = torch.zeros_like(query)
        kv_heads = key.shape[1]
        for bucket in self._buckets:
            k, v = (bucket.pad(x, kv_heads) for x in (key, value))
            q = query[bucket.rows].unflatten(1, (kv_heads, -1)).transpose(0, 1)
            prefix = None if bucket.group is None else prefixes[bucket.group]
            attended = _attend(q, k, v, prefix, bucket.padding_mask)
            out[bucket.rows] = attended.transpose(0, 1).flatten(1, 2)
        return out

    def _causal(
        self, bucket: _Bucket, query: Tensor, key: Tensor, value: Tensor, prefix: PrefixKeys | None
    ) -> Tensor:
        """Attention of a padded bucket, some rows at a time."""
        length, step = bucket.length, bucket.score_rows
        repeat = query.shape[2] // length
        if step == length:
            return _attend(query, key, value, prefix, self._future(length, repeat, query))
        out = torch.empty_like(query)
        for start in range(0, length, step):
            end = min(start + step, length)
            rows = slice(start * repeat, end * repeat)
            out[:, :, rows] = _attend(
                query[:, :, rows],
                key[:, :, :end],
                value[:, :, :end],
                prefix,
                self._future(end - start, repeat, query),
            )
        return out

    def _future(self, rows: int, repeat: int, like: Tensor) -> Tensor:
        """-inf at the keys behind a row's own, among the last `rows` keys; see `_attend`."""
        mask = self._masks.get(rows)
        if mask is None:
            mask = torch.full((rows, rows), -torch.inf, dtype=like.dtype, device=like.device)
            mask = self._masks[rows] = mask.triu_(1).repeat_interleave(repeat, 0)
        return mask


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
    """Tokens of the longest, rounded up."""
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
        kv_heads, sequences = x.shape[:2]
        by_head = x.reshape(kv_heads, sequences * self.length, -1)
        if self.scatter is not None:
            by_head = by_head.index_select(1, self.scatter)
        out[self.tokens].view(-1, kv_heads, by_head.shape[2]).copy_(by_head.transpose(0, 1))


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
        padded = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        score_rows = min(padded, _SCORE_ROWS)
        stop = min(end, first + max(1, _SCORES // (score_rows * (prefix + padded))))
        behind = first + 1
        while behind < stop and lengths[behind] >= shortest:
            behind += 1
        behind = first + _few_numbers(behind - first)
        rows, tokens = slice(first, behind), slice(bounds[first], bounds[behind])
        padding = _padding(bounds, lengths[first:behind], first, padded, device)
        yield _Bucket(group, rows, tokens, padded, score_rows, *padding)
        first = behind


def _few_numbers(count: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not larger than `count`."""
    power = 1 << (count.bit_length() - 1)
    between = power + power // 2
    return between if count >= between else power


def _padding(
    bounds: list[int], lengths: np.ndarray, first: int, padded: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`gather`, `scatter` and `padding_mask` of a bucket whose first sequence is `first`."""
    if lengths.min() == padded:
        return None, None, None
    real = np.arange(padded) < lengths[:, None]
    starts = np.asarray(bounds[first : first + len(lengths)])[:, None]
    gather = torch.from_numpy(np.where(real, starts + np.arange(padded), starts).ravel())
    scatter = torch.from_numpy(np.flatnonzero(real))
    mask = torch.zeros(1, len(lengths), 1, padded).masked_fill_(
        ~torch.from_numpy(real)[:, None], -torch.inf
    )
    return gather.to(device), scatter.to(device), mask.to(device)


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
    width = shared + key.shape[2]
    scores = query.new_empty(kv_heads, n, rows, -(-width // _WIDTH_STEP) * _WIDTH_STEP)
    scores[..., width:] = -torch.inf
    by_sequence, by_head = scores.flatten(0, 1), scores.flatten(1, 2)
    flat = query.contiguous().view(kv_heads * n, rows, dim)
    _scaled_product(flat, key.flatten(0, 1), by_sequence[:, :, shared:width])
    if prefix is not None:
        _scaled_product(
            flat.view(kv_heads, n * rows, dim), prefix.key.transpose(0, 1), by_head[:, :, :shared]
        )
    if mask is not None:
        scores[..., width - mask.shape[-1] : width].add_(mask)
    weights = torch.softmax(scores, -1)
    out = torch.bmm(weights.flatten(0, 1)[:, :, shared:width], value.flatten(0, 1))
    out = out.view(kv_heads, n * rows, dim)
    if prefix is not None:
        out = torch.baddbmm(out, weights.flatten(1, 2)[:, :, :shared], prefix.value.transpose(0, 1))
    return out.view(kv_heads, n, rows, dim)


def _scaled_product(query: Tensor, key: Tensor, out: Tensor) -> None:
    scale = query.shape[-1] ** -0.5
    torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=scale, out=out)

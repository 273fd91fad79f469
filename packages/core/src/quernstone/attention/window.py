"""Attention with a window: a token attends to a number of tokens before it, and to itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import AttentionMaker, BatchAttention
from quernstone.attention.sdpa import Bucket, HeadPrefix, SdpaAttention, attend
from quernstone.batching import PackedBatch


def windowed(maker: AttentionMaker, device: torch.device, window: int | None) -> AttentionMaker:
    """Return a maker that gives batches of longer sequences than the window `WindowAttention`.

    Such a batch runs by torch's own operations, whatever the kernel of `maker` is. There are no
    shared prefixes.
    """
    if window is None:
        return maker

    def make(batch: PackedBatch, integers: Sequence[Tensor]) -> BatchAttention:
        if batch.max_seqlen <= window:
            return maker.make(batch, integers)
        return WindowAttention(batch, device, window)

    return replace(maker, make=make, replay=None)


class WindowAttention(SdpaAttention):
    """Causal `SdpaAttention` in which a token attends to at most `window` tokens."""

    def __init__(self, batch: PackedBatch, device: torch.device, window: int) -> None:
        super().__init__(batch, device)
        self._window = window
        self._lengths = torch.from_numpy(np.diff(batch.cu_seqlens)).to(device)
        self._mask = cache(_mask)  # for all layers

    def _last_mask(self, bucket: Bucket, length: int) -> Tensor:
        """Return a mask with -inf at padding and at keys before the window."""
        places = torch.arange(length, device=self._lengths.device)
        ends = self._lengths[bucket.rows, None, None]
        hidden = (places >= ends) | (places < ends - self._window)
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def _attend_in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, bucket: Bucket, prefix: HeadPrefix | None
    ) -> Tensor:
        """Compute a padded bucket in blocks of some tokens, without the keys before the window."""
        if prefix is not None:
            raise ValueError("attention with a window has no shared prefixes")
        out = torch.empty_like(query)
        length = key.shape[2]
        repeat = query.shape[2] // length
        for start in range(0, length, bucket.score_tokens):
            end = min(start + bucket.score_tokens, length)
            keys = slice(max(0, start - self._window + 1), end)
            mask = self._mask(end - start, keys.stop - keys.start, self._window, query.device)
            rows = slice(start * repeat, end * repeat)
            attend(
                query[:, :, rows],
                key[:, :, keys],
                value[:, :, keys],
                None,
                mask.to(query.dtype).repeat_interleave(repeat, 0),
                out=out[:, :, rows],
            )
        return out


def _mask(rows: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Return a mask for the last `rows` of `keys` tokens: -inf at keys that they do not attend to.

    Shape: (rows, keys)
    """
    places = torch.arange(keys, device=device)
    distance = places[-rows:, None] - places
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)

"""Reorder tokens head by head for matrix products, and back, with one copy each way."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor


class HeadOrder:
    """The order of tokens in a bucket: by head, sequence and position.

    Copies whole rows, each one head of one token, which is several times as fast as copying a
    transposed tensor.
    """

    def __init__(self, tokens: np.ndarray, real: np.ndarray, device: torch.device) -> None:
        """Prepare the order. Shape of both arrays: (sequences, length).

        `tokens` are indices in the batch. `real` is False where a position is padding; without
        padding, the tokens are consecutive in the batch.
        """
        self._sequences, self._first = len(tokens), int(tokens[0, 0])
        self._rows = cache(partial(_rows, tokens, device))
        self._places = cache(partial(_places, real, device))

    def by_head(self, x: Tensor, kv_heads: int) -> Tensor:
        """(tokens of the batch, heads, dim) -> (kv heads, sequences, rows of a sequence, dim).

        Query heads with the same key/value head become consecutive rows of each token.
        """
        if x.stride(2) != 1 or x.stride(0) % x.stride(1):
            x = x.contiguous()
        heads, dim = x.shape[1:]
        width = x.stride(0) // x.stride(1)  # in rows; `x` may be a view of a merged projection
        rows = x.as_strided((width * (len(x) - 1) + heads, dim), (x.stride(1), 1))
        found = rows.index_select(0, self._rows(kv_heads, heads, width))
        return found.view(kv_heads, self._sequences, -1, dim)

    def by_token(self, x: Tensor, out: Tensor) -> None:
        """Copy the layout of `by_head` into `out`, (tokens of the batch, heads, dim)."""
        heads, dim = out.shape[1:]
        places = self._places(len(x), heads)
        tokens = out[self._first : self._first + len(places) // heads]
        torch.index_select(x.view(-1, dim), 0, places, out=tokens.view(-1, dim))


def _rows(
    tokens: np.ndarray, device: torch.device, kv_heads: int, heads: int, width: int
) -> Tensor:
    """Return the index of each row by head among rows by token, `width` per token."""
    head = np.arange(heads).reshape(kv_heads, 1, 1, -1)
    return torch.from_numpy((tokens[:, :, None] * width + head).ravel()).to(device)


def _places(real: np.ndarray, device: torch.device, kv_heads: int, heads: int) -> Tensor:
    """Return the index of each row by token among rows by head."""
    shared = heads // kv_heads
    head = np.arange(kv_heads)[:, None] * real.size * shared + np.arange(shared)
    places = np.flatnonzero(real)[:, None, None] * shared + head
    return torch.from_numpy(places.ravel()).to(device)

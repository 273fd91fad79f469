"""Attention in float64, sequence by sequence, as the reference for kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.run import Run

HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128
"""The attention of the 0.6B model."""

_BATCHES = ([1], [5, 5], [300, 40, 39, 7, 1, 1], [128] * 9, [700, 3])
_SMALL_BATCHES = ([1], [30, 9, 7, 7, 1, 1])


def batches(run: Run) -> Sequence[list[int]]:
    """Return the lengths of the sequences of each batch to compare."""
    return _SMALL_BATCHES if run.settings.dry_run else _BATCHES


def random_qkv(tokens: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries, keys and values that are views of one product, as they are in the model."""
    qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, HEAD_DIM, device=device).to(dtype)
    query, key, value = qkv.split([HEADS, KV_HEADS, KV_HEADS], 1)
    return query, key, value


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Sequence[int],
    key_bounds: Sequence[int],
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Compute attention over packed sequences.

    Args:
        query: Shape: (tokens, heads, head_dim)
        key: Shape: (tokens, kv heads, head_dim)
        value: Shape: (tokens, kv heads, head_dim)
        query_bounds: Where the queries of each sequence start, and the end of the last one.
        key_bounds: The same for the keys.
        causal: The last query of a sequence sees all its keys, the one before it one key less, and
            so on.

    Returns:
        The result, Shape: (tokens, heads, head_dim), and the log of the sum of the exponentiated
        scores, Shape: (tokens, heads), both in float64.
    """
    out = torch.empty(query.shape, dtype=torch.float64, device=query.device)
    lse = torch.empty(query.shape[:2], dtype=torch.float64, device=query.device)
    repeat = query.shape[1] // key.shape[1]
    for row in range(len(query_bounds) - 1):
        queries = slice(query_bounds[row], query_bounds[row + 1])
        keys = slice(key_bounds[row], key_bounds[row + 1])
        k, v = (x[keys].double().repeat_interleave(repeat, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[queries].double(), k) / query.shape[2] ** 0.5
        if causal:
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=query.device)
            hidden = hidden.triu(1 + scores.shape[2] - scores.shape[1])
            scores = scores.masked_fill(hidden, -torch.inf)
        out[queries] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        lse[queries] = scores.logsumexp(-1).T
    return out, lse


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    difference = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(difference)

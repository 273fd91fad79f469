"""Attention with a window, against a full mask."""

import numpy as np
import pytest
import torch

from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.window import WindowAttention, windowed
from quernstone.batching import pack
from quernstone.types import Encoded

CPU = torch.device("cpu")
LENGTHS = [300, 290, 130, 7, 1]
HEADS, KV_HEADS, DIM = 4, 2, 8


def batch_of(lengths):
    return pack([Encoded(np.arange(length, dtype=np.int32)) for length in lengths])


def reference(query, key, value, window):
    """Attention of one sequence."""
    places = torch.arange(len(query))
    distance = places[:, None] - places
    repeat = HEADS // KV_HEADS
    key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / DIM**0.5
    scores[:, (distance < 0) | (distance >= window)] = -torch.inf
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


@pytest.mark.parametrize("window", [1, 5, 128, 200])
def test_a_token_attends_to_the_window(window):
    batch = batch_of(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(sum(LENGTHS), heads, DIM, generator=generator)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    attention = windowed(sdpa_maker(CPU), CPU, window).make(batch, [])
    assert isinstance(attention, WindowAttention)
    rows = attention.all_tokens(query, key, value, None)
    ends = torch.tensor(batch.cu_seqlens[1:]) - 1
    last = attention.last_tokens(query[ends], key, value, None)
    for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
        expected = reference(query[start:end], key[start:end], value[start:end], window)
        torch.testing.assert_close(rows[start:end], expected)
    torch.testing.assert_close(last, rows[ends])


def test_shorter_sequences_need_no_window():
    maker = sdpa_maker(CPU)
    assert windowed(maker, CPU, None) is maker
    attention = windowed(maker, CPU, 130).make(batch_of([130, 7]), [])
    assert not isinstance(attention, WindowAttention)

"""Each implementation against attention written down naively."""

import numpy as np
import pytest
import torch

from quernstone import attention
from quernstone.attention import PrefixKeys, sdpa
from quernstone.attention.sdpa import SdpaAttention
from quernstone.attention.varlen import varlen_maker
from quernstone.batching import pack
from quernstone.types import Encoded, Prefix

HEADS, KV_HEADS, DIM = 4, 2, 16


def naive(query, key, value, *, causal):
    """One sequence. Shape: (tokens, heads, dim); the last query sits at the last key."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeat, 1).double() for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) / query.shape[2] ** 0.5
    if causal:
        rows, columns = scores.shape[1:]
        scores += torch.full((rows, columns), -torch.inf).triu(1 + columns - rows)
    lse = scores.logsumexp(-1).T
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).float(), lse.float()


def naive_kernel(q, k, v, cu_q, cu_k, max_q, max_k, *, causal):
    """Stands in for a CUDA varlen kernel, to test what is built around it."""
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    parts = [
        naive(q[a:b], k[c:d], v[c:d], causal=causal)
        for a, b, c, d in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True)
    ]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


VARLEN = varlen_maker("naive", naive_kernel)
MAKERS = {
    "sdpa": lambda batch: SdpaAttention(batch, torch.device("cpu")),
    "varlen": lambda batch: VARLEN.make(batch, [*map(torch.from_numpy, VARLEN.integers(batch))]),
}
LENGTHS = [
    [1],
    [5, 5, 5],
    [40, 39, 38, 37, 12, 3, 1],
    [12, 7, 12, 12, 9, 12],  # with prefixes, neighbours of falling and rising length
    [700, 650, 300, 257, 256, 90, 80, 1, 1],
]


def end_to_end(prefixes):
    """All prefixes of a batch, as views with other numbers between their tokens."""
    if not prefixes:
        return None
    key, value = (torch.cat([getattr(p, name) for p in prefixes]) for name in ("key", "value"))
    return PrefixKeys(*torch.stack((key, value), 1).unbind(1))


def joined(source, key, value, shared):
    rows = [
        [own[row] if row >= 0 else prefix[-1 - row] for row in source.tolist()]
        for own, prefix in ((key, shared.key), (value, shared.value))
    ]
    return map(torch.stack, rows)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("prefix_lengths", [[], [7], [300, 5]], ids=str)
def test_matches_naive_attention(maker, lengths, prefix_lengths):
    torch.manual_seed(len(lengths))
    prefixes = [Prefix(np.full(n, n, dtype=np.int32)) for n in prefix_lengths]
    choices = [None, *prefixes]
    batch = pack(
        [
            Encoded(np.zeros(n, dtype=np.int32), choices[i % len(choices)])
            for i, n in enumerate(lengths)
        ]
    )
    tokens = sum(lengths)
    query = torch.randn(tokens, HEADS, DIM)
    key, value = torch.randn(2, tokens, KV_HEADS, DIM)
    keys = {
        prefix: PrefixKeys(*torch.randn(2, len(prefix), KV_HEADS, DIM))
        for prefix, _, _ in batch.groups
    }
    shared = end_to_end(list(keys.values()))
    own = dict.fromkeys(range(len(lengths)))
    own.update({row: keys[p] for p, first, end in batch.groups for row in range(first, end)})
    expected = []
    for row, (start, end) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)):
        k, v = key[start:end], value[start:end]
        if own[row]:
            k, v = torch.cat([own[row].key, k]), torch.cat([own[row].value, v])
        expected.append(naive(query[start:end], k, v, causal=True)[0])
    ends = torch.tensor(batch.cu_seqlens[1:]) - 1

    planned = MAKERS[maker](batch)
    if planned.source is not None:  # the model writes these beside each other
        key, value = joined(planned.source, key, value, shared)
    every = planned.all_tokens(query, key, value, shared)
    last = planned.last_tokens(query[ends], key, value, shared)
    torch.testing.assert_close(every, torch.cat(expected), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(last, torch.cat(expected)[ends], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "lengths", "copies"),
    [
        (76, [205] * 20, True),  # a query and its documents
        (256, [300] * 20, True),
        (257, [300] * 20, False),  # long
        (76, [20] * 200, False),  # of many short documents: more prefix than text
        (76, [20] * 20, True),  # of few ones
    ],
)
def test_prefixes_are_copied_where_that_takes_less_than_merging(prefix, lengths, copies):
    shared = Prefix(np.zeros(prefix, dtype=np.int32))
    batch = pack([Encoded(np.zeros(n, dtype=np.int32), shared) for n in lengths])
    assert (MAKERS["varlen"](batch).source is not None) == copies


def test_joined_rows_are_each_sequences_prefix_and_tokens():
    one, two = (Prefix(np.full(n, n, dtype=np.int32)) for n in (2, 3))
    texts = [(3, None), (2, one), (1, one), (2, two)]
    batch = pack([Encoded(np.zeros(n, dtype=np.int32), prefix) for n, prefix in texts])
    assert attention.joined_lengths(batch).tolist() == [3, 4, 3, 5]
    expected = [0, 1, 2, -1, -2, 3, 4, -1, -2, 5, -3, -4, -5, 6, 7]
    assert attention.join_source(batch).tolist() == expected


def test_rows_behind_the_batch_are_left_alone():
    """A batch may be filled up; what follows it must not be what memory happened to hold."""
    batch = pack([Encoded(np.zeros(n, dtype=np.int32)) for n in (5, 3)])
    query, key, value = torch.randn(3, 16, KV_HEADS, DIM)
    planned = MAKERS["sdpa"](batch)
    every = planned.all_tokens(query, key, value, None)
    assert torch.equal(every[:8], planned.all_tokens(query[:8], key[:8], value[:8], None))
    assert torch.equal(every[8:], torch.zeros(8, KV_HEADS, DIM))
    last = planned.last_tokens(query[:4], key, value, None)
    assert torch.equal(last[:2], planned.last_tokens(query[:2], key, value, None))
    assert torch.equal(last[2:], torch.zeros(2, KV_HEADS, DIM))


def test_products_have_few_shapes(monkeypatch):
    """Kernels are compiled for each: 200 batches of 1 to 24 sequences of up to 100 tokens."""
    shapes = set()
    _record_shapes(monkeypatch, "baddbmm", shapes)
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random.integers(1, 101, size=random.integers(1, 25))
        batch = pack([Encoded(np.zeros(n, dtype=np.int32)) for n in lengths])
        tokens = batch.cu_seqlens[-1]
        query, key, value = torch.zeros(3, tokens, 1, 2)
        MAKERS["sdpa"](batch).all_tokens(query, key, value, None)
    assert len(shapes) < 80  # 13 lengths, six numbers of sequences


def test_heads_in_parts_are_the_same(monkeypatch):
    """What a CPU holds at a time is bounded; prefix, padding and blocks of rows included."""
    shared = PrefixKeys(*torch.randn(2, 7, KV_HEADS, DIM))
    lengths = (300, 290, 40, 5)
    one_prefix = Prefix(np.arange(7, dtype=np.int32))
    batch = pack([Encoded(np.zeros(n, dtype=np.int32), one_prefix) for n in lengths])
    query = torch.randn(sum(lengths), HEADS, DIM)
    key, value = torch.randn(2, sum(lengths), KV_HEADS, DIM)
    whole = MAKERS["sdpa"](batch).all_tokens(query, key, value, shared)
    held = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: held.append(len(x)) or softmax(x, dim))
    monkeypatch.setattr(sdpa, "_CPU_SCORES", 1)
    parts = MAKERS["sdpa"](batch).all_tokens(query, key, value, shared)
    torch.testing.assert_close(parts, whole, atol=2e-6, rtol=1e-5)
    assert set(held) == {1}


def test_a_long_text_has_no_more_shapes_than_kernels_are_kept(monkeypatch):
    """Those of both products, which all layers share; oneDNN keeps 128, of everything."""
    shapes = set()
    for name in ("baddbmm", "bmm"):
        _record_shapes(monkeypatch, name, shapes)
    length = 12_000
    batch = pack([Encoded(np.zeros(length, dtype=np.int32))])
    query, key, value = torch.zeros(3, length, 1, 2)
    MAKERS["sdpa"](batch).all_tokens(query, key, value, None)
    assert len(shapes) <= 100


def _record_shapes(monkeypatch, name, shapes):
    product = getattr(torch, name)

    def recorded(*x, **k):
        shapes.add((name, *(each.shape for each in x)))
        return product(*x, **k)

    monkeypatch.setattr(torch, name, recorded)


def test_the_cpu_has_sdpa():
    maker = attention.choose_attention(torch.device("cpu"), torch.bfloat16)
    assert maker.name == "sdpa"
    batch = pack([Encoded(np.zeros(3, dtype=np.int32))])
    assert isinstance(maker.make(batch, []), SdpaAttention)

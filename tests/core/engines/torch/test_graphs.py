"""Small batches as CUDA graphs: which are, how they are filled up, and that rows do not change."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import gpu_stand_ins

from quernstone import Embedder, Reranker
from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.torch.engine import TorchEngine
from quernstone.engines.torch.graphs import _SEQUENCES, _TOKENS, add_dummies, padded_tokens
from quernstone.types import Encoded, EngineConfig, Prefix

PREFIXES = [None, *(Prefix(np.arange(5, 5 + n, dtype=np.int32)) for n in (3, 40, 90))]


def sequence(length, prefix=0, first=7):
    ids = (np.arange(length, dtype=np.int32) * 31 + first) % 1000
    return Encoded(ids.astype(np.int32), PREFIXES[prefix])


batches = st.lists(
    st.builds(
        sequence,
        st.one_of(st.integers(1, 20), st.integers(1, 300)),
        st.integers(0, len(PREFIXES) - 1),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=9,
)


def whole(batch):
    return [len(s) + len(s.prefix or ()) for s in batch]


@given(batches)
def test_what_fits_is_filled_up_exactly(batch):
    tokens = padded_tokens(batch)
    needed = sum(whole(batch)) + _SEQUENCES - len(batch)
    if tokens is None:
        assert len(batch) >= _SEQUENCES or needed > max(_TOKENS)
        return
    assert len(batch) < _SEQUENCES
    assert tokens == min(size for size in _TOKENS if size >= needed)
    filled = add_dummies(batch, tokens)
    assert [len(s) for s in filled[: len(batch)]] == whole(batch)
    assert len(filled) == _SEQUENCES
    assert sum(map(len, filled)) == tokens
    assert all(s.prefix is None for s in filled)
    # the graph was recorded for no longer sequence than this
    assert 1 <= min(map(len, filled)) <= max(map(len, filled)) <= tokens - _SEQUENCES + 1


def load(task="embed", dtype="float32", max_batch_tokens=None):
    checkpoint = resolve("tiny", task, None)
    config = EngineConfig(
        task=task,
        model=str(checkpoint.folder),
        engine="torch",
        dtype=dtype,
        device="cpu",
        max_batch_tokens=max_batch_tokens,
    )
    tokenizer = Tokenizer(checkpoint.folder, checkpoint.vocab_size)
    return TorchEngine(config, checkpoint, tokenizer)


@pytest.fixture(scope="module", params=["embed", "rerank"])
def engines(request):
    """The plain engine, one with stand-ins and graphs, one without graphs, and the recorder."""
    plain = load(request.param)
    record = gpu_stand_ins.Recorder()
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_ins.use(patch, record=record)
        with_graphs = load(request.param)
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_ins.use(patch)
        without = load(request.param)
    return plain, with_graphs, without, record


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches)
def test_rows_are_those_of_the_plain_engine(engines, batch):
    plain, with_graphs, without, record = engines
    replays = record.replays
    expected = plain.run(batch)
    rows = with_graphs.run(batch)
    assert rows.shape == expected.shape == (len(batch), plain.width)
    np.testing.assert_allclose(rows, expected, atol=3e-5, rtol=1e-5)
    np.testing.assert_allclose(without.run(batch), expected, atol=3e-5, rtol=1e-5)
    assert record.replays - replays == (padded_tokens(batch) is not None)
    assert record.recorded <= len(_TOKENS)


def test_a_graph_is_recorded_once_for_each_number_of_tokens(monkeypatch):
    record = gpu_stand_ins.Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load()
    for length in (3, 25, 20, 26, 50, 57, 58, 505, 506, 700):
        engine.run([sequence(length)])
    assert record.recorded == 4  # 32, 64, 128, 512
    assert record.replays == 8


def test_rows_in_flight_are_not_overwritten_by_the_next_replay(monkeypatch):
    plain = load()
    gpu_stand_ins.use(monkeypatch, record=gpu_stand_ins.Recorder())
    engine = load()
    one, two = [sequence(9, first=1)], [sequence(12, first=500)]
    waits = [engine.launch(batch) for batch in (one, two)]
    rows = [wait() for wait in waits]
    for batch, row in zip((one, two), rows, strict=True):
        np.testing.assert_allclose(row, plain.run(batch), atol=3e-5)
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_float32_beside_another_dtype_is_not_replayed(monkeypatch):
    record = gpu_stand_ins.Recorder()
    plain = load(dtype="bfloat16").run([sequence(9)], precise=True)
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load(dtype="bfloat16")
    rows = engine.run([sequence(9)], precise=True)
    assert record.recorded == 0
    engine.run([sequence(9)])
    assert (record.recorded, record.replays) == (1, 1)
    np.testing.assert_allclose(rows, plain, atol=3e-5)


def test_deterministic_engines_have_no_graphs(monkeypatch):
    record = gpu_stand_ins.Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    load(max_batch_tokens=1).run([sequence(9)])
    assert record.recorded == 0


def test_what_cannot_be_recorded_is_computed_and_told_once(monkeypatch, caplog):
    calls = []

    def record(compute):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("17 MiB of memory are left")
        return compute

    plain = load()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load()
    small, large, larger = [sequence(9)], [sequence(40)], [sequence(100)]
    with caplog.at_level(logging.WARNING, "quernstone"):
        for batch in (small, large, larger, small, large):
            np.testing.assert_allclose(engine.run(batch), plain.run(batch), atol=3e-5)
    assert len(calls) == 2  # what was recorded before is used on
    [message] = caplog.messages
    assert "no CUDA graph could be recorded for 64 tokens" in message
    assert "17 MiB" in message


def test_callers_get_the_same_vectors_and_scores(monkeypatch):
    """From end to end: the worker launches ahead, prefixes are shared, small batches replayed."""
    texts = [" ".join(["word"] * (n % 70 + 1)) + f" {n}" for n in range(80)]
    own = {"model": "tiny", "dtype": "float32", "max_batch_tokens": 611}  # a model of its own
    with Embedder(**own | {"max_batch_tokens": 612}) as plain:
        expected = plain.embed_documents(texts), plain.embed_query(texts[3])
    with Reranker(**own | {"max_batch_tokens": 612}) as plain:
        scores = plain.rerank("one query", texts[:9]), plain.score([("query", texts[50])] * 2)
    record = gpu_stand_ins.Recorder()
    transfers = gpu_stand_ins.use(monkeypatch, record=record)
    with Embedder(**own) as embedder:
        assert embedder.info.attention == "stand-in"
        np.testing.assert_allclose(embedder.embed_documents(texts), expected[0], atol=2e-6)
        launched = transfers[0].waits
        assert launched > 3
        np.testing.assert_allclose(embedder.embed_query(texts[3]), expected[1], atol=2e-6)
        assert transfers[0].waits == launched + 1
        assert record.recorded >= 1
    with Reranker(**own) as reranker:
        ranked = reranker.rerank("one query", texts[:9])
        assert [r.index for r in ranked] == [r.index for r in scores[0]]
        np.testing.assert_allclose(
            [r.score for r in ranked], [r.score for r in scores[0]], atol=2e-6
        )
        np.testing.assert_allclose(reranker.score([("query", texts[50])] * 2), scores[1], atol=2e-6)

"""Small batches as CUDA graphs: which are, when they are recorded, and that rows do not change."""

import logging
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import gpu_stand_ins

from quernstone import Embedder, Reranker
from quernstone.checkpoints.checkpoint import resolve
from quernstone.doctor.environment import describe_attention
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.torch.engine import TorchEngine
from quernstone.engines.torch.grid import MOST_TOKENS, Unfolded, shapes
from quernstone.engines.torch.memory import token_bytes
from quernstone.model import session_of
from quernstone.runtime import preparation
from quernstone.types import Encoded, EngineConfig, Prefix

PREFIXES = [None, *(Prefix(np.arange(5, 5 + n, dtype=np.int32)) for n in (3, 40, 90))]


def sequence(length, prefix=0, first=7):
    ids = (np.arange(length, dtype=np.int32) * 31 + first) % 1000
    return Encoded(ids.astype(np.int32), PREFIXES[prefix])


batches = st.lists(
    st.builds(
        sequence,
        st.one_of(st.integers(1, 20), st.integers(1, 150)),
        st.integers(0, len(PREFIXES) - 1),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=9,
)


GRID = shapes(MOST_TOKENS)


@st.composite
def batches_of_any_size(draw):
    """Batches of one to thousands of tokens, of like or unlike lengths, some with prefixes."""
    longest = draw(st.sampled_from([3, 30, 300, 3000, MOST_TOKENS]))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=200))
    prefixes = draw(st.lists(st.integers(1, longest), max_size=4))
    shared = [None, *(Prefix(np.full(n, place, np.int32)) for place, n in enumerate(prefixes))]
    return [
        Encoded(np.zeros(length, np.int32), shared[place % len(shared)])
        for place, length in enumerate(lengths)
    ]


@settings(max_examples=300)
@given(batches_of_any_size())
def test_a_batch_is_padded_by_less_than_a_quarter(batch):
    used = {each.prefix for each in batch if each.prefix}
    tokens = sum(map(len, batch)) + sum(map(len, used))
    joined = tokens + sum(len(each.prefix) for each in batch if each.prefix)
    count, longest = len(batch) + len(used), max(map(len, [*batch, *used]))
    shape = Unfolded(batch).shape(GRID)
    if tokens > MOST_TOKENS:
        assert shape is None
        return
    blocks = -(-longest // 128)
    if count > min(64, tokens // 2) and 8 * count * blocks > tokens:
        return  # such a batch may fit a larger shape, or none
    needed = max(tokens, -(-joined // 4))
    if needed > MOST_TOKENS:
        assert shape is None
        return
    assert shape.tokens - needed < max(16, needed / 4)
    assert shape.tokens >= tokens
    assert shape.sequences >= count
    assert shape.longest >= longest
    # blocks of queries that a kernel starts for nothing
    assert shape.sequences * -(-shape.longest // 128) <= shape.tokens / 2 + 64


def test_the_grid_is_small_and_grows_by_less_than_a_quarter():
    sizes = sorted({shape.tokens for shape in GRID})
    assert (sizes[0], sizes[-1], len(GRID)) == (16, MOST_TOKENS, 68)
    assert all(after - before <= max(16, before / 4) for before, after in pairwise(sizes))
    assert max(shape.tokens for shape in shapes(1000)) == 896


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


def prepared(engine):
    """Record all graphs."""
    while engine.prepare():
        pass
    return engine


@pytest.fixture(scope="module", params=["embed", "rerank"])
def engines(request):
    """The plain engine, one with stand-ins and graphs, one without graphs, and the recorder."""
    plain = load(request.param)
    record = gpu_stand_ins.Recorder()
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_ins.use(patch, record=record, graph_tokens=320)
        with_graphs = prepared(load(request.param, max_batch_tokens=320))
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_ins.use(patch)
        without = load(request.param)
    return plain, with_graphs, without, record


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches)
def test_rows_are_those_of_the_plain_engine(engines, batch):
    plain, with_graphs, without, record = engines
    replays, recorded = record.replays, record.recorded
    expected = plain.run(batch)
    rows = with_graphs.run(batch)
    assert rows.shape == expected.shape == (len(batch), plain.width)
    np.testing.assert_allclose(rows, expected, atol=3e-5, rtol=1e-5)
    np.testing.assert_allclose(without.run(batch), expected, atol=3e-5, rtol=1e-5)
    fits = Unfolded(batch).shape(shapes(320)) is not None
    assert record.replays - replays == fits
    assert record.recorded == recorded == len(shapes(320))


def test_nothing_is_recorded_in_a_request(monkeypatch):
    record = gpu_stand_ins.Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load(max_batch_tokens=256)
    for length in (3, 40, 250):
        engine.run([sequence(length)])
    assert (record.recorded, record.replays) == (0, 0)
    assert engine.info.graphs == "0 of 12 recorded, 0 MiB; recording"
    # the largest first, whose memory the others share, then from the smallest up
    for recorded, replayed in ((1, 1), (2, 2), (3, 3)):
        assert engine.prepare()
        before = record.replays
        for length in (3, 20, 40, 250):
            engine.run([sequence(length)])
        assert record.recorded == recorded
        assert record.replays - before == replayed
    prepared(engine)
    assert not engine.prepare()
    assert record.recorded == 12
    assert engine.info.graphs == "12 of 12 recorded, 12 MiB"
    assert describe_attention(engine.info).endswith("; CUDA graphs: 12 of 12 recorded, 12 MiB")


def test_the_memory_of_graphs_is_limited_and_said(monkeypatch):
    record = gpu_stand_ins.Recorder(size=100 << 20)
    gpu_stand_ins.use(monkeypatch, record=record, memory=4 << 30)  # of which they get 256 MiB
    engine = prepared(load(max_batch_tokens=256))
    assert record.recorded == 3
    assert engine.info.graphs == (
        "3 of 12 recorded, 300 MiB; stopped at 32 tokens: they may take 256 MiB"
    )
    engine.run([sequence(20)])
    assert record.replays == 1


def test_the_largest_graph_fits_into_the_memory_of_graphs(monkeypatch):
    """Its activations take at most half of it: 64 MiB of 128 on a device of 2 GiB."""
    gpu_stand_ins.use(
        monkeypatch, record=gpu_stand_ins.Recorder(), memory=2 << 30, graph_tokens=8192
    )
    engine = load(max_batch_tokens=8192)
    per_token = token_bytes(engine._model.config, torch.float32)
    largest = max(shape.tokens for shape in engine._graphs._shapes)
    assert 0.8 * (64 << 20) < largest * per_token <= 64 << 20


def test_requests_are_served_while_graphs_are_recorded(monkeypatch):
    """They wait for one recording at most, and run without a graph as long as theirs is missing."""
    started, gate = threading.Event(), threading.Semaphore(0)
    events = []

    class Recorder(gpu_stand_ins.Recorder):
        def __call__(self, compute):
            started.set()
            assert gate.acquire(timeout=30)
            events.append("recorded")
            return super().__call__(compute)

    record = Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    with Embedder("tiny", dtype="float32", max_batch_tokens=64) as embedder:
        assert started.wait(30)
        assert embedder.info.graphs == "0 of 4 recorded, 0 MiB; recording"
        futures = []
        for length in (20, 40):
            started.clear()
            futures.append(session_of(embedder).backend.submit([sequence(length)]))
            gate.release()  # the recording that was running when the request arrived
            assert np.isfinite(futures[-1].result(30)).all()
            assert started.wait(30)  # idle again: the next one
        assert events == ["recorded"] * 2
        assert record.replays == 0
        for _ in range(4):
            gate.release()
        wait_for_graphs(embedder)
    assert record.recorded == 4


def test_a_worker_that_is_never_idle_records_as_well(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(preparation.time, "monotonic", lambda: now[0])

    class Engine:
        steps = 3

        def prepare(self):
            self.steps -= 1
            return self.steps > 0

    steps = preparation.Preparation(Engine())
    assert steps.is_due(idle=True)
    assert not steps.is_due(idle=False)
    now[0] = 1.0
    assert steps.is_due(idle=False)
    steps.do_step()
    assert not steps.is_due(idle=False)
    steps.do_step()
    steps.do_step()
    assert not steps.pending
    assert not steps.is_due(idle=True)
    assert not preparation.Preparation(object()).pending


def test_rows_in_flight_are_not_overwritten_by_the_next_replay(monkeypatch):
    plain = load()
    gpu_stand_ins.use(monkeypatch, record=gpu_stand_ins.Recorder())
    engine = prepared(load(max_batch_tokens=64))
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
    engine = prepared(load(dtype="bfloat16", max_batch_tokens=16))
    rows = engine.run([sequence(9)], precise=True)
    assert record.replays == 0
    engine.run([sequence(9)])
    assert (record.recorded, record.replays) == (1, 1)
    np.testing.assert_allclose(rows, plain, atol=3e-5)


def test_deterministic_engines_have_no_graphs(monkeypatch):
    record = gpu_stand_ins.Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = prepared(load(max_batch_tokens=1))
    engine.run([sequence(9)])
    assert record.recorded == 0
    assert engine.info.graphs == "none, because results are to be deterministic"


def test_what_cannot_be_recorded_is_computed_and_told_once(monkeypatch, caplog):
    class Recorder(gpu_stand_ins.Recorder):
        def __call__(self, compute):
            if self.recorded == 2:
                raise torch.OutOfMemoryError("17 MiB of memory are left")
            return super().__call__(compute)

    record = Recorder()
    plain = load()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load(max_batch_tokens=128)
    with caplog.at_level(logging.WARNING, "quernstone"):
        prepared(engine)
        for length in (9, 20, 120):
            batch = [sequence(length)]
            np.testing.assert_allclose(engine.run(batch), plain.run(batch), atol=3e-5)
    assert record.replays == 2  # what was recorded before is used on
    [message] = caplog.messages
    assert "no CUDA graph could be recorded for 32 tokens" in message
    assert "17 MiB" in message
    assert "2 of 8 recorded, 2 MiB; failed at 32 tokens: 17 MiB" in engine.info.graphs


def test_small_graphs_are_recorded_though_the_largest_fails(monkeypatch, caplog):
    class Recorder(gpu_stand_ins.Recorder):
        attempts = 0

        def __call__(self, compute):
            self.attempts += 1
            if self.attempts in (1, 4):
                raise torch.OutOfMemoryError(f"{self.attempts} MiB are free")
            return super().__call__(compute)

    record = Recorder()
    gpu_stand_ins.use(monkeypatch, record=record)
    engine = load(max_batch_tokens=128)
    with caplog.at_level(logging.WARNING, "quernstone"):
        assert engine.prepare()
        assert engine.info.graphs == (
            "0 of 8 recorded, 0 MiB; failed at 128 tokens: 1 MiB are free; recording"
        )
        prepared(engine)
    assert (record.attempts, record.recorded) == (4, 2)
    for length in (9, 30, 120):
        engine.run([sequence(length)])
    assert record.replays == 2
    failed = "failed at 128 tokens: 1 MiB are free; failed at 48 tokens: 4 MiB are free"
    assert engine.info.graphs == f"2 of 8 recorded, 2 MiB; {failed}"
    assert [message.split(",")[0] for message in caplog.messages] == [
        f"no CUDA graph could be recorded for {tokens} tokens or more" for tokens in (128, 48)
    ]


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
        wait_for_graphs(embedder)
        replays = record.replays
        np.testing.assert_allclose(embedder.embed_query(texts[3]), expected[1], atol=2e-6)
        assert record.replays == replays + 1
    with Reranker(**own) as reranker:
        wait_for_graphs(reranker)
        replays = record.replays
        ranked = reranker.rerank("one query", texts[:9])
        assert [r.index for r in ranked] == [r.index for r in scores[0]]
        np.testing.assert_allclose(
            [r.score for r in ranked], [r.score for r in scores[0]], atol=2e-6
        )
        np.testing.assert_allclose(reranker.score([("query", texts[50])] * 2), scores[1], atol=2e-6)
        assert record.replays > replays  # with the query as a shared prefix


def wait_for_graphs(user):
    deadline = time.monotonic() + 30
    while "recording" in user.info.graphs:
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""The batch size of a load adapts to the speed of the embedder."""

from types import SimpleNamespace

import pytest

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.loading import batch_size
from quernstone_qdrant.loading.batch_size import AdaptiveBatchSize


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_a_batch_takes_the_embedder_six_seconds(clock):
    size = AdaptiveBatchSize()
    with size.measure(50_000):
        clock.seconds += 1
    assert size.chars == 300_000


def test_idle_time_is_not_counted_and_overlapping_calls_count_once(clock):
    size = AdaptiveBatchSize()
    with size.measure(50_000):
        clock.seconds += 1
        with size.measure(50_000):
            clock.seconds += 1
    clock.seconds += 1000
    with size.measure(200_000):
        clock.seconds += 1
    assert size.chars == 6 * 300_000 // 3


@pytest.mark.parametrize(("seconds", "chars"), [(0.0, 1_024_000), (1000.0, 32_000)])
def test_there_are_limits(clock, seconds, chars):
    size = AdaptiveBatchSize()
    with size.measure(50_000):
        clock.seconds += seconds
    assert size.chars == chars


@pytest.fixture
def calls(embedder, monkeypatch):
    """Number of characters in each call of the embedder."""
    found = []
    embed = embedder.embed_documents

    def counted(texts):
        found.append(sum(map(len, texts)))
        return embed(texts)

    monkeypatch.setattr(embedder, "embed_documents", counted)
    return found


@pytest.mark.usefixtures("clock")  # it stands still, so embedding takes no time
def test_batches_grow_with_a_fast_embedder(client, embedder, calls):
    records = [{"id": str(n), "text": f"{n:08d}" * 1000} for n in range(400)]
    assert QdrantLoader(client, "docs", embedder, chunk_size=None).load(records).embedded == 400
    assert calls[0] == 64_000
    assert max(calls) == 1_024_000


def test_batch_size_stays_the_limit(client, embedder, calls):
    records = [{"id": str(n), "text": f"{n:08d}" * 1000} for n in range(100)]
    QdrantLoader(client, "docs", embedder, chunk_size=None, batch_size=5).load(records)
    assert calls == [40_000] * 20

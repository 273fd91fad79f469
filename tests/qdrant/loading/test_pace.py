"""The batch size of a load follows the speed of the embedder."""

from types import SimpleNamespace

import pytest

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.loading import pace
from quernstone_qdrant.loading.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_a_batch_is_what_the_embedder_does_in_six_seconds(clock):
    measured = Pace()
    with measured.embedding(50_000):
        clock.seconds += 1
    assert measured.batch_chars == 300_000


def test_neither_the_time_between_calls_nor_that_of_two_at_a_time_counts_twice(clock):
    measured = Pace()
    with measured.embedding(50_000):
        clock.seconds += 1
        with measured.embedding(50_000):
            clock.seconds += 1
    clock.seconds += 1000
    with measured.embedding(200_000):
        clock.seconds += 1
    assert measured.batch_chars == 6 * 300_000 // 3


@pytest.mark.parametrize(("seconds", "chars"), [(0.0, 1_024_000), (1000.0, 32_000)])
def test_there_are_limits(clock, seconds, chars):
    measured = Pace()
    with measured.embedding(50_000):
        clock.seconds += seconds
    assert measured.batch_chars == chars


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

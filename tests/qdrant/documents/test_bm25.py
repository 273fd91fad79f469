"""BM25 vectors: the rule, and threads that share a client."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.models import QueryResponse

from quernstone_qdrant.documents.bm25 import Bm25Text, encode_document, encode_query
from quernstone_qdrant.settings import BM25, CollectionSettings
from quernstone_qdrant.targets import ClientTarget, SearchRequest
from quernstone_qdrant.targets.base import Bm25Stage

SETTINGS = CollectionSettings(bm25="sparse")
WORDS = "mill quern stone furrow river wheel oven bread grain hopper 4711 0x80070005".split()


def make_texts(count, seed=0):
    """Return different texts of three to nine words."""
    chooser = random.Random(seed)
    return [
        " ".join([f"n{n}", *chooser.choices(WORDS, k=chooser.randint(2, 8))]) for n in range(count)
    ]


def plain(vector):
    """Return a vector of any client as {index: value}."""
    return dict(zip(vector.indices, vector.values, strict=True))


def reference(text):
    return plain(encode_document(Bm25Text(text, SETTINGS.language)))


@pytest.fixture
def eager_switches():
    """Let threads take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def sent(monkeypatch):
    """A server's client, and a list of what it would send: qdrant-client itself has prepared it."""
    client = QdrantClient(url="http://127.0.0.1:1", check_compatibility=False)
    written, searched = [], []

    def upsert(collection_name, points, **_):
        written.append(points)
        return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    def query_points(collection_name, query, prefetch, **_):
        searched.append(prefetch)
        return QueryResponse(points=[])

    monkeypatch.setattr(client._client, "upsert", upsert)
    monkeypatch.setattr(client._client, "query_points", query_points)
    return client, written, searched


def test_threads_that_share_a_client_write_the_vectors_of_their_own_texts(sent, eager_switches):
    client, written, _ = sent
    target = ClientTarget(client, "docs")
    texts = make_texts(640)

    def write(start):
        batch = texts[start : start + 16]
        target.upsert(
            [str(UUID(int=start + n)) for n in range(len(batch))],
            [{"text": text} for text in batch],
            SETTINGS.rows(np.ones((len(batch), 4), np.float32), batch),
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(0, len(texts), 16)))
    points = [
        (payload["text"], plain(vector))
        for batch in written
        for payload, vector in zip(batch.payloads, batch.vectors[BM25], strict=True)
    ]
    assert sorted(text for text, _ in points) == sorted(texts)
    assert [text for text, vector in points if vector != reference(text)] == []


def test_threads_that_share_a_client_search_for_their_own_words(sent, eager_switches):
    client, _, searched = sent
    target = ClientTarget(client, "docs")
    queries = make_texts(640)

    def search(number):
        query = Bm25Text(queries[number], SETTINGS.language)
        # the number of hits says which search it is
        stage = Bm25Stage(using=BM25, sparse=True, query=query)
        vector = np.ones(4, np.float32)
        target.query(SearchRequest(vector=vector, limit=1, bm25=stage, depth=number + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(search, range(len(queries))))
    assert len(searched) == len(queries)
    for _, words in searched:
        query = Bm25Text(queries[words.limit - 1], SETTINGS.language)
        assert plain(words.query) == plain(encode_query(query))

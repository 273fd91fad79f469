"""Hybrid loads and searches from several threads that share one client of a server."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.qdrant_server import running_server

from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.documents.bm25 import encode_document
from quernstone_qdrant.settings import BM25

WORDS = (
    "mill quern stone furrow river wheel oven bread grain hopper 石磨 谷物 錯誤 맷돌 แป้ง".split()
)
RECORDS = 1200


def make_records(seed):
    """Return records of different texts; each has a word of its own."""
    chooser = random.Random(seed)
    return [
        {"id": str(n), "text": " ".join([*chooser.choices(WORDS, k=9), f"E{seed}x{n}"])}
        for n in range(RECORDS)
    ]


def own_word(record):
    return f"what is {record['text'].split()[-1]}?"


async def aembed_mill(embedder, *_):
    return embedder._vector("mill")


def load(client, embedder, seed):
    """Load the records into a new collection, and check every BM25 vector of it."""
    records, name = make_records(seed), f"docs-{seed}"
    loader = QdrantLoader(client, name, embedder, hybrid=True, batch_size=64)
    report = loader.load(records)
    assert (report.embedded, report.failed) == (RECORDS, 0)
    encode = loader.provenance.settings.bm25_text
    expected = {record["text"]: encode_document(encode(record["text"])) for record in records}
    points, _ = client.scroll(name, limit=2 * RECORDS, with_vectors=[BM25])
    assert len(points) == RECORDS
    for point in points:
        vector = expected.pop(point.payload["page_content"])
        stored = dict(zip(point.vector[BM25].indices, point.vector[BM25].values, strict=True))
        assert stored == pytest.approx(dict(zip(vector.indices, vector.values, strict=True)))
    return name, records


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize(
    ("loads", "searches"),
    [
        pytest.param(1, 5),
        pytest.param(5, 100, marks=pytest.mark.slow),
        pytest.param(50, 1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_threads_store_and_find_the_vectors_of_their_own_texts(
    embedder, monkeypatch, loads, searches, grpc
):
    with running_server() as server:
        client = server.client(prefer_grpc=grpc, timeout=60)
        server.delay = 0.005  # so that several writers are at work
        for seed in range(loads):
            name, records = load(client, embedder, seed)
            if seed:
                client.delete_collection(f"docs-{seed - 1}")
        assert server.most_writing > 1

        # Only its own word tells a record from the others: all queries have one dense vector, and
        # the dense part passes every record on.
        monkeypatch.setattr(type(embedder), "embed_query", lambda self, *_: self._vector("mill"))
        monkeypatch.setattr(type(embedder), "aembed_query", aembed_mill)
        searcher = QdrantSearcher(client, name, embedder)

        def search(thread):
            for record in random.Random(thread).choices(records, k=searches):
                hits = searcher.search(own_word(record), limit=1, prefetch=RECORDS)
                assert hits[0].key == record["id"]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(search, range(8)))

        async def search_all():
            coming = [
                searcher.asearch(own_word(record), limit=1, prefetch=RECORDS)
                for record in records[:24]
            ]
            assert [hits[0].key for hits in await asyncio.gather(*coming)] == [
                record["id"] for record in records[:24]
            ]

        asyncio.run(search_all())

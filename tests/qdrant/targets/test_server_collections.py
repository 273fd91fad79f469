"""Every kind of collection on a server: the one at QDRANT_URL, or else the model of one."""

import uuid

import numpy as np
import pytest

from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.settings import PRESETS, CollectionSettings
from quernstone_qdrant.targets import ClientTarget
from quernstone_qdrant.targets.deferred_indexing import deferring_loads

WORDS = "stone mill grain rain roof bread hand water flour wheel wind corn oven".split()
RNG = np.random.default_rng(7)
RECORDS = [
    {"id": f"d{n}", "text": " ".join(RNG.choice(WORDS, size=8)), "year": 1200 + n % 3}
    for n in range(300)
]
QUERIES = ["stone mill", "rain on the roof", "flour from corn for bread"]


@pytest.fixture(params=["rest", "grpc"])
def server(request, open_server):
    """A client; the parameter names the transport, and the model's version."""
    return open_server(*request.param.split())


@pytest.fixture
def collection(server):
    name = f"quernstone-test-{uuid.uuid4()}"
    yield name
    server.delete_collection(name)


def exact(embedder, query):
    matrix = embedder.embed_documents([record["text"] for record in RECORDS])
    cosines = matrix @ embedder.embed_query(query)
    return {record["id"]: float(c) for record, c in zip(RECORDS, cosines, strict=True)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_loaded_twice_and_searched(server, collection, embedder, preset):
    loader = QdrantLoader(server, collection, embedder, preset=preset, index_timeout=60)
    assert loader.load(RECORDS).embedded == len(RECORDS)
    again = QdrantLoader(server, collection, embedder).load(RECORDS)
    assert (again.embedded, again.skipped, again.ignored) == (0, len(RECORDS), ())
    searcher = QdrantSearcher(server, collection, embedder)
    tolerance = 0.02 if preset in ("uint8", "float16") else 1e-3
    for query in QUERIES:
        expected = exact(embedder, query)
        scores = [hit.score for hit in searcher.search(query, limit=10, prefetch=len(RECORDS))]
        best = sorted(expected.values(), reverse=True)[:10]
        np.testing.assert_allclose(scores, best, atol=tolerance)


@pytest.mark.parametrize(
    ("server", "bm25"),
    [
        ("rest", "sparse"),
        ("grpc", "sparse"),
        ("rest 1.20.0", "text"),
        ("grpc 1.20.0", "text"),
    ],
    indirect=["server"],
)
def test_words_find_what_meaning_misses(server, collection, embedder, bm25):
    version = tuple(map(int, server.info().version.split(".")[:2]))
    if bm25 == "text" and version < (1, 20):
        pytest.skip("a text index with scores needs Qdrant 1.20")
    records = [*RECORDS, {"id": "code", "text": "The error E4711 says nothing. " * 3}]
    settings = CollectionSettings(bm25=bm25)
    QdrantLoader(server, collection, embedder, preset=settings).load(records)
    # the embedder is made to know nothing about this word
    embedder.embed_query = lambda text, instruction=None: embedder._vector("bread oven")
    searcher = QdrantSearcher(server, collection, embedder)
    found = searcher.search("what is E4711?", limit=5)
    assert "code" in {hit.key for hit in found}
    assert all(hit.fused_score > 0 for hit in found)
    dense = searcher.search("what is E4711?", limit=5, hybrid=False)
    assert "code" not in {hit.key for hit in dense}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_filtered_by_an_indexed_field(server, collection, embedder, layout):
    settings = CollectionSettings(layout=layout, indexes={"year": "integer"})
    QdrantLoader(server, collection, embedder, preset=settings).load(RECORDS)
    hits = QdrantSearcher(server, collection, embedder).search(
        "mill", limit=10, query_filter={"year": 1201}
    )
    assert {hit.metadata["year"] for hit in hits} == {1201}
    schema = server.get_collection(collection).payload_schema
    assert set(schema) >= {LAYOUTS[layout].field("year"), "quernstone.key"}


@pytest.mark.parametrize("how", ["m0", "threshold"])
def test_indexing_is_put_off_and_back(server, collection, embedder, how):
    target = ClientTarget(server, collection)
    loader = QdrantLoader(server, collection, embedder, defer_index=how, index_timeout=60)
    before = target.state().index
    with target.deferred_index(how):
        inside = target.state()
        assert (inside.index.m, inside.index.threshold)[how == "threshold"] == 0
        assert len(deferring_loads(inside)) == 1
    assert target.state().index == before
    assert deferring_loads(target.state()) == []
    assert loader.load(RECORDS).embedded == len(RECORDS)
    assert target.state().index == before
    assert target.state().status == "green"

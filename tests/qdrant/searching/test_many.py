"""Searches for several queries in one request, and how a server is read."""

import asyncio

import pytest
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.errors import LimitError, TransientError
from quernstone_qdrant.searching import finding as searcher_module
from quernstone_qdrant.targets.edge import EdgeTarget

RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill for grinding grain.", "topic": "tools"},
    {"id": "rain", "text": "Rain falls on the stone roof.", "topic": "weather"},
    {"id": "bread", "text": "Bread is made of grain.", "topic": "food"},
]
QUERIES = ["grinding grain", "rain on a roof", "bread", "stone", "grinding grain"]


def search_many(searcher, queries, *, blocking, **options):
    if blocking:
        return searcher.search_many(queries, **options)
    return asyncio.run(searcher.asearch_many(queries, **options))


@pytest.mark.parametrize("blocking", [True, False], ids=["sync", "async"])
def test_several_queries_find_what_each_finds(
    target, place, embedder, reranker, shared_server, blocking
):
    QdrantLoader(target, "docs", embedder, hybrid=True, preset="mrl").load(RECORDS)
    searcher = QdrantSearcher(target, "docs", embedder, reranker)
    options = {"limit": 2, "query_filter": {"topic": ["tools", "food", "weather"]}}
    each = [searcher.search(query, **options) for query in QUERIES]
    shared_server.requests.clear()
    assert search_many(searcher, QUERIES, blocking=blocking, **options) == each
    assert len({hits[0].retrieval_rank for hits in each}) > 1
    searches = [one.path for one in shared_server.requests if "/query" in one.path]
    batch = ["/collections/docs/points/query/batch"]
    assert searches == (batch if place in ("rest", "grpc") else [])
    assert search_many(searcher, [], blocking=blocking) == []
    with pytest.raises(ConfigError, match="`queries` is one text"):
        search_many(searcher, "grain", blocking=blocking)


def test_models_that_take_several_queries_share_batches(client, embedder, reranker):
    calls = []

    class Embedder(type(embedder)):
        def embed_queries(self, texts, instruction=None):
            calls.append((texts, instruction))
            return [self.embed_query(text) for text in texts]

    class Reranker(type(reranker)):
        def rerank_many(self, queries, documents, top_n=None, instruction=None):
            calls.append((queries, instruction))
            return [
                self.rerank(query, texts, top_n)
                for query, texts in zip(queries, documents, strict=True)
            ]

    QdrantLoader(client, "docs", embedder).load(RECORDS)
    alone = QdrantSearcher(client, "docs", embedder, reranker)
    searcher = QdrantSearcher(client, "docs", Embedder(), Reranker())
    each = [alone.search(query) for query in QUERIES]
    assert searcher.search_many(QUERIES, instruction="Find a mill") == each
    assert calls == [(QUERIES, "Find a mill")] * 2


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_request_is_split_where_strict_mode_limits_it(embedder, grpc):
    with running_server() as server:
        client = server.client(prefer_grpc=grpc)
        QdrantLoader(client, "docs", embedder).load(RECORDS)
        searcher = QdrantSearcher(client, "docs", embedder)
        each = [searcher.search(query) for query in QUERIES]
        server.strict = {"search_max_batchsize": 2}
        server.requests.clear()
        assert searcher.search_many(QUERIES) == each
        sent = [one.path for one in server.requests if one.path.endswith(("/query", "/batch"))]
        assert len(sent) == 5, sent  # 5 and 3 are refused; 2, 1 and 2 are not


@pytest.mark.parametrize("moment", ["before", "after"])
def test_several_queries_are_answered_by_one_collection(
    either_client, embedder, make_embedder, monkeypatch, moment
):
    """Another model's collection takes its place around the request."""
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 3600.0)
    QdrantLoader(either_client, "docs", embedder).load(RECORDS)
    searcher = QdrantSearcher(either_client, "docs", embedder)
    target = searcher._finder.opened.target
    query_many = target.query_many

    def replace():
        either_client.delete_collection("docs")
        QdrantLoader(either_client, "docs", embedder).load(RECORDS[:1])

    def replaced(requests):
        monkeypatch.undo()
        if moment == "before":
            replace()
        found = query_many(requests)
        if moment == "after":
            replace()
        return found

    monkeypatch.setattr(target, "query_many", replaced)
    found = searcher.search_many(["grain", "rain"])
    assert [[hit.key for hit in hits] for hits in found] == [["mill"], ["mill"]]


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_consistency_asks_as_many_replicas(embedder, grpc):
    with running_server(nodes=3, write_consistency=2) as server:
        client = server.client(prefer_grpc=grpc)
        QdrantLoader(client, "docs", embedder).load(RECORDS)
        options = {"patience": 0}
        asked = ["all", "majority", 2]
        everywhere = [
            QdrantSearcher(client, "docs", embedder, consistency=each, **options) for each in asked
        ]
        for searcher in everywhere:
            assert searcher.search("grain", limit=1)[0].key == "bread"
            assert searcher.search("grain", limit=1, per_document=1)[0].key == "bread"
        anywhere = QdrantSearcher(client, "docs", embedder, **options)
        nodes = [replica.node for replica in server.collections["docs"].replicas]
        server.nodes[next(node for node in nodes if node)].kill()
        assert anywhere.search("grain", limit=1)[0].key == "bread"
        for searcher in everywhere:
            with pytest.raises(TransientError, match="read operations failed"):
                searcher.search("grain")
            with pytest.raises(TransientError, match="read operations failed"):
                searcher.search_many(["grain", "rain"])
            with pytest.raises(TransientError, match="read operations failed"):
                searcher.search("grain", per_document=1)


def test_timeout_is_the_servers(either_client, shared_server, embedder):
    QdrantLoader(either_client, "docs", embedder).load(RECORDS)
    shared_server.strict = {"max_timeout": 5}
    patient = QdrantSearcher(either_client, "docs", embedder, timeout=6)
    try:
        assert QdrantSearcher(either_client, "docs", embedder, timeout=5).search("grain")
        with pytest.raises(LimitError, match=r"Limit exceeded 6 > 5 for .*timeout"):
            patient.search("grain")
        with pytest.raises(LimitError, match=r"Limit exceeded 6 > 5 for .*timeout"):
            patient.search_many(["grain", "rain"])
    finally:
        shared_server.strict = {}


@pytest.mark.parametrize("place", ["embedded", "edge"])
def test_a_local_target_has_no_replicas_and_no_timeout(client, embedder, tmp_path, place):
    target = client if place == "embedded" else EdgeTarget(tmp_path, "docs")
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    with pytest.raises(ConfigError, match=r"`consistency` needs a server; in .* one copy of each"):
        QdrantSearcher(target, "docs", embedder, consistency="all")
    with pytest.raises(ConfigError, match="`timeout` needs a server"):
        QdrantSearcher(target, "docs", embedder, timeout=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("consistency", 0),
        ("consistency", "most"),
        ("consistency", True),
        ("timeout", 0),
        ("timeout", 2.5),
        ("timeout", "3"),
    ],
)
def test_values_that_qdrant_does_not_have(client, embedder, name, value):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    with pytest.raises(ConfigError, match=f"`{name}` is {value!r}; it must be a"):
        QdrantSearcher(client, "docs", embedder, **{name: value})


def test_an_unknown_option_is_named(client, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    with pytest.raises(TypeError, match=r"`top_k` is not an option of a search; .* hybrid, "):
        QdrantSearcher(client, "docs", embedder).search("grain", top_k=3)

"""Strict mode and rate limits: they are read from the collection and respected."""

import time
import warnings
from types import SimpleNamespace

import pytest
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, QdrantSearcher, TargetError, WriteError
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.loading.prune import prune_missing
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import as_target, connect
from quernstone_qdrant.verify import verify

RECORDS = [{"id": f"d{n}", "text": f"mill {n}", "n": n} for n in range(120)]


@pytest.fixture
def server(monkeypatch):
    """A server whose rate limiters refill at once, so they only refuse what exceeds their size."""
    fast = SimpleNamespace(monotonic=lambda: time.monotonic() * 1e9)
    monkeypatch.setattr("tests.support.qdrant_server.limits.time", fast)
    with running_server() as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def target(request, server):
    target = as_target(server.client(prefer_grpc=request.param == "grpc"), "docs")
    yield target
    target.close()


def stored(server):
    return len(server.collections["docs"].points(0))


STRICT = [
    {"upsert_max_batchsize": 7},
    {"max_query_limit": 10},
    {"search_allow_exact": False},
    {"max_timeout": 1},
    {"search_allow_exact": False, "max_query_limit": 9},
    {"unindexed_filtering_retrieve": False, "unindexed_filtering_update": False},
    {"read_rate_limit": 50, "write_rate_limit": 40},
    {"condition_max_size": 3, "filter_max_conditions": 1, "search_max_batchsize": 2},
    {"max_payload_index_count": 9, "max_points_count": 999, "max_resident_memory_percent": 90},
    {"enabled": False, "upsert_max_batchsize": 1, "max_query_limit": 1},
]


@pytest.mark.parametrize("strict", STRICT, ids=str)
@pytest.mark.parametrize("before", [True, False], ids=["known", "changed"])
def test_everything_works_within_strict_mode(server, target, embedder, strict, before):
    """Also if the limits change after they were read."""
    QdrantLoader(target, "docs", embedder).load(RECORDS[:1])
    server.strict = strict if before else {}
    loader = QdrantLoader(target, "docs", embedder)
    searcher = QdrantSearcher(target, "docs", embedder)
    loader.load(RECORDS[:20])
    server.strict = strict
    report = loader.load(RECORDS)
    assert (report.chunks, report.failed, report.retries) == (120, 0, 0)
    assert stored(server) == target.count() == 120
    assert verify(target, embedder).passed
    assert len(searcher.search("mill 7", limit=5)) == 5
    hits = searcher.search("mill 7", limit=3, per_document=2)
    assert len(hits) == 3
    assert len(searcher.search_many([f"mill {n}" for n in range(5)], limit=2)) == 5
    assert len(searcher.point_ids([f"d{n}" for n in range(9)])) == 9
    kept = [Record(record["id"], record["text"]) for record in RECORDS[:50]]
    assert prune_missing(target, kept, every_source=True, dry_run=False) == 70
    assert stored(server) == 50


@pytest.mark.parametrize("preset", ["scalar", "mrl", "dense"])
@pytest.mark.parametrize("hybrid", [True, False])
@pytest.mark.parametrize("before", [True, False], ids=["known", "changed"])
def test_searches_keep_to_the_limits(server, embedder, reranker, preset, hybrid, before):
    limits = {"max_query_limit": 30, "search_max_oversampling": 1.5}
    if not (hybrid and preset == "mrl"):
        limits["search_allow_exact"] = False
    client = server.client()
    settings = CollectionSettings(
        quantization="scalar" if preset == "scalar" else None,
        prefix=32 if preset == "mrl" else None,
        vector="full" if preset == "mrl" else "",
        bm25="auto" if hybrid else None,
    )
    QdrantLoader(client, "docs", embedder, preset=settings).load(RECORDS)
    server.strict = limits if before else {}
    searcher = QdrantSearcher(client, "docs", embedder, reranker)
    server.strict = limits
    assert len(searcher.search("mill 7", limit=8)) == 8
    with pytest.raises(ConfigError, match=r"`limit` is 31; .* allows 30.*max_query_limit"):
        searcher.search("mill 7", limit=31)
    with pytest.raises(ConfigError, match=r"`candidates` is 31; .* allows 30"):
        searcher.search("mill 7", limit=5, candidates=31)
    with pytest.raises(ConfigError, match=r"`prefetch` is 40; .* allows 30"):
        searcher.search("mill 7", limit=5, candidates=20, prefetch=40)
    with pytest.raises(ConfigError, match=r"`limit` is 8; .* allows 7"):
        searcher.search("mill 7", limit=8, per_document=4)
    with pytest.raises(ConfigError, match=r"`per_document` is 31; .* allows 30"):
        searcher.search("mill 7", limit=1, per_document=31)


def test_full_vectors_without_a_graph_are_ranked_only_if_exact_search_is_allowed(server, embedder):
    """In an `mrl` pair, a hybrid search ranks the full vectors in a separate stage."""
    client = server.client()
    settings = CollectionSettings(prefix=32, vector="full", bm25="auto")
    QdrantLoader(client, "docs", embedder, preset=settings).load(RECORDS[:9])
    server.strict = {"search_allow_exact": False}
    searcher = QdrantSearcher(client, "docs", embedder)
    assert searcher.search("mill 7", hybrid=False)
    with pytest.raises(TargetError, match=r"`search_allow_exact` of .* strict mode: allow it: "):
        searcher.search("mill 7")


@pytest.mark.parametrize("skip_errors", [True, False])
@pytest.mark.parametrize(
    "strict",
    [
        {"max_points_count": 50},
        {"max_collection_vector_size_bytes": 99},
        {"max_collection_payload_size_bytes": 99},
        {"max_resident_memory_percent": 90},
    ],
    ids=str,
)
def test_a_full_collection_ends_the_load_and_is_named(
    server, target, embedder, strict, skip_errors
):
    QdrantLoader(target, "docs", embedder).load(RECORDS[:50])
    server.strict, server.memory_percent = strict, 91
    loader = QdrantLoader(target, "docs", embedder, skip_errors=skip_errors)
    before = len(server.writes())
    with pytest.raises(WriteError, match=rf"`{next(iter(strict))}` of .* strict mode: .*raise it"):
        loader.load(RECORDS)
    assert (loader.report.failed, stored(server)) == (0, 50)
    assert len(server.writes()) == before + 1  # not repeated, nor divided


def test_an_unindexed_filter_is_refused_with_its_field(server, target, embedder):
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    server.strict = {"unindexed_filtering_retrieve": False}
    searcher = QdrantSearcher(target, "docs", embedder)
    with pytest.raises(TargetError, match=r'Index required but not found for .?"metadata.n'):
        searcher.search("mill", query_filter={"n": 5})
    settings = CollectionSettings(indexes={"n": "integer"})
    target.create_indexes(settings)
    assert searcher.search("mill", query_filter={"n": 5})[0].key == "d5"


def test_numbers_match_on_a_server(server, target, embedder):
    rows = [{"id": repr(n), "text": "mill", "price": n} for n in (5, 5.0, 5.5, 6.0, True, "5")]
    QdrantLoader(target, "docs", embedder).load(rows)
    searcher = QdrantSearcher(target, "docs", embedder)
    for asked, keys in [(5, {"5", "5.0"}), (5.0, {"5", "5.0"}), ([5, 6], {"5", "5.0", "6.0"})]:
        hits = searcher.search("mill", query_filter={"price": asked})
        assert {hit.key for hit in hits} == keys


@pytest.mark.parametrize("by_grpc", [False, True])
def test_a_key_over_plain_http_gives_one_line(caplog, by_grpc):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grpc = {"prefer_grpc": by_grpc, "grpc_port": 2}
        connect(url="http://localhost:1", api_key="secret", **grpc).close()
        connect(url="https://localhost:1", api_key="secret", **grpc).close()
        connect(url="http://localhost:1", **grpc).close()
    lines = [record.getMessage() for record in caplog.records if record.name == "quernstone"]
    assert lines == ["the API key is sent unencrypted to http://localhost:1: use https://"]


def test_pages_shrink_to_what_strict_mode_allows(server, target, embedder):
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    server.strict = {"max_query_limit": 1}
    assert len([*target.scroll([])]) == 120
    assert [*PointStore(target, CollectionSettings(), Retry(0)).scroll([])] == [*target.scroll([])]
    assert verify(target, embedder).passed

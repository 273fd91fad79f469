"""Migrations and copies of collections whose strict mode limits requests."""

import time
from types import SimpleNamespace

import pytest
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, QdrantLoader, QdrantMigration, copy_collection
from quernstone_qdrant.documents.layouts import HASH_FIELD
from quernstone_qdrant.migration.in_place_record import InPlaceRecord
from quernstone_qdrant.repair import repair
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDS = [{"id": f"d{n}", "text": f"The mill number {n} grinds rye."} for n in range(40)]
UNINDEXED = {"unindexed_filtering_retrieve": False, "unindexed_filtering_update": False}
STRICT = [
    {"upsert_max_batchsize": 7, "max_query_limit": 9},
    {"search_allow_exact": False, "max_timeout": 1, "search_max_batchsize": 2},
    {"condition_max_size": 3, "filter_max_conditions": 1},
    {"read_rate_limit": 30, "write_rate_limit": 20},
    UNINDEXED,
    {**UNINDEXED, "condition_max_size": 4, "max_query_limit": 10, "upsert_max_batchsize": 5},
]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server whose rate limiters refill at once, so they only refuse what exceeds their size."""
    monkeypatch.chdir(tmp_path)  # for the records of migrations
    fast = SimpleNamespace(monotonic=lambda: time.monotonic() * 1e9)
    monkeypatch.setattr("tests.support.qdrant_server.limits.time", fast)
    with running_server() as server:
        yield server


def start(target, embedder=None, **arguments):
    return QdrantMigration(target, target.collection, embedder, sample=5, **arguments)


@pytest.mark.parametrize(("strict", "grpc"), zip(STRICT, [False, True] * 3, strict=True), ids=str)
def test_a_migration_in_place_works_within_strict_mode(server, embedder, other, strict, grpc):
    target = as_target(server.client(prefer_grpc=grpc), "docs")
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    server.strict = strict
    report = start(target, other, in_place=True).run()
    assert (report.embedded, report.left_out, report.retries) == (40, 0, 0)
    assert verify(target, other).passed
    needed = "unindexed_filtering_update" in strict
    assert (HASH_FIELD in target.state().payload_indexes) == needed
    assert any(f"payload index of `{HASH_FIELD}`" in note for note in report.notes) == needed
    start(target, in_place=True).rollback()
    assert verify(target, embedder).passed
    start(target, in_place=True).rollback(delete=True)
    assert HASH_FIELD not in target.state().payload_indexes


@pytest.mark.parametrize("strict", STRICT, ids=str)
def test_copies_and_migrations_work_within_strict_mode(server, embedder, other, strict):
    target, copy = (as_target(server.client(), name) for name in ("docs", "copy"))
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    server.strict = strict
    report = copy_collection(target, copy)
    assert (report.copied, report.different) == (40, 0)
    assert repair(copy).complete
    report = start(copy, other, alias="programs").run()
    assert (report.embedded, report.left_out) == (40, 0)
    assert verify(as_target(server.client(), "programs"), other).passed


def test_a_migration_that_cannot_update_under_a_condition_writes_nothing(server, embedder, other):
    target = as_target(server.client(), "docs")
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    before = target.state()
    held = len(before.payload_indexes)
    server.strict = {"unindexed_filtering_update": False, "max_payload_index_count": held}
    named = rf"{HASH_FIELD}.* `max_payload_index_count` of its strict mode is {held}: raise it"
    with pytest.raises(CollectionError, match=named):
        start(target, other, in_place=True).run()
    after = target.state()
    assert (after.metadata, after.vectors) == (before.metadata, before.vectors)
    assert InPlaceRecord.read(after) is None


def test_indexes_beyond_the_limit_are_refused_before_any_is_created(server, embedder):
    target = as_target(server.client(), "docs")
    QdrantLoader(target, "docs", embedder).load(RECORDS[:1])
    before = target.state()
    server.strict = {"max_payload_index_count": len(before.payload_indexes) + 1}
    settings = {"indexes": {"a": "keyword", "b": "integer"}, "m": 8}
    with pytest.raises(CollectionError, match=r"needs 2 more \(metadata.a, metadata.b\), but"):
        QdrantLoader(target, "docs", embedder, settings=settings).load(RECORDS)
    after = target.state()
    assert (after.payload_indexes, after.config) == (before.payload_indexes, before.config)

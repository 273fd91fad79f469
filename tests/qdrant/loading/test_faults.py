"""A load survives every kind of server fault without losing or duplicating points or hanging."""

import itertools
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import FAULTS, random_faults, running_server

from quernstone_qdrant import QdrantLoader, QdrantSearcher, TargetError, WriteError
from quernstone_qdrant.documents.records import to_record
from quernstone_qdrant.loading.prune import prune_missing
from quernstone_qdrant.repair import repair
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"Document {n} speaks of mills. " * (1 + n % 4)} for n in range(40)
]
WRONG = models.SparseVector(indices=[1], values=[1.0])
SETTINGS = {"chunk_size": 60, "chunk_overlap": 0, "batch_size": 10}


@pytest.fixture
def server():
    with running_server() as server:
        yield server


@pytest.fixture
def undisturbed(make_embedder):
    """Payloads by id of the same records, loaded without faults."""
    client = QdrantClient(":memory:")
    QdrantLoader(client, "docs", make_embedder(), **SETTINGS).load(RECORDS)
    points, _ = client.scroll("docs", limit=10_000, with_vectors=True)
    return {point.id: (point.payload, point.vector) for point in points}


def assert_complete(server, undisturbed):
    stored = server.collections["docs"].points()
    assert {i: payload for i, (payload, _) in stored.items()} == {
        i: payload for i, (payload, _) in undisturbed.items()
    }
    for point, (_, vector) in undisturbed.items():
        np.testing.assert_allclose(stored[point][1], vector, atol=1e-6)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_fails_once(server, embedder, undisturbed, fault):
    server.script = [None, fault, None, fault]
    started = time.monotonic()
    client = server.client(timeout=1 if fault == "slow" else 30)
    report = QdrantLoader(client, "docs", embedder, **SETTINGS).load(RECORDS)
    assert time.monotonic() - started < 20
    assert_complete(server, undisturbed)
    assert server.faults == {fault: 2}
    assert report.retries == 2
    assert report.chunks == report.embedded == len(embedder.embedded) == len(undisturbed)
    assert (report.seen, report.skipped, report.failed, report.removed) == (40, 0, 0, 0)
    # every write without a confirmation is repeated: maybe only one replica has applied it
    assert sum(write.points for write in server.writes()) == len(undisturbed) + 10 * 2


@pytest.mark.slow
def test_nearly_every_request_fails_and_every_chunk_arrives(server, embedder, undisturbed):
    loader = QdrantLoader(
        server.client(timeout=1), "docs", embedder, **SETTINGS | {"batch_size": 3}
    )
    slow = {"slow", "429", "503"}  # these take a second each
    server.chaos = random_faults(7, 0.5, tuple(name for name in FAULTS if name not in slow))
    report = loader.load(RECORDS)
    assert_complete(server, undisturbed)
    assert server.faults.total() > 20
    assert report.retries > 10
    assert report.chunks == report.embedded == len(embedder.embedded)
    server.chaos = None
    second = loader.load(RECORDS)
    assert (second.embedded, second.skipped, second.retries) == (0, report.chunks, 0)


def test_a_server_that_does_not_recover_ends_the_load_in_time(server, embedder, undisturbed):
    loader = QdrantLoader(server.client(timeout=1), "docs", embedder, patience=1, **SETTINGS)
    server.chaos = lambda method, path: (
        "500" if method == "PUT" and len(server.writes()) > 3 else None
    )
    started = time.monotonic()
    with pytest.raises(WriteError, match=r"status 500.*gave up after \d+ attempts? in") as caught:
        loader.load(RECORDS)
    assert time.monotonic() - started < 10
    stored = server.collections["docs"].points()
    assert len(caught.value.ids) == 10
    assert not set(caught.value.ids) & set(stored)
    assert loader.report.embedded == len(stored) == 30

    server.chaos = None
    report = loader.load(RECORDS)
    assert_complete(server, undisturbed)
    assert (report.skipped, report.embedded) == (30, report.chunks - 30)


@pytest.mark.parametrize(("status", "points"), [("400", 1), ("403", 10)])
def test_a_request_that_will_never_succeed_is_not_repeated(server, embedder, status, points):
    server.chaos = lambda method, path: status if method == "PUT" and server.writes()[1:] else None
    with pytest.raises(
        WriteError, match=f"writing {points} points.*status {status}: .*and 7 more"
    ) as bad:
        QdrantLoader(server.client(timeout=1), "docs", embedder, **SETTINGS).load(RECORDS)
    assert len(bad.value.ids) == 10
    assert not set(bad.value.ids) & set(server.collections["docs"].points())


@pytest.mark.parametrize("status", [413, 400])
def test_what_is_too_large_is_divided(server, embedder, status):
    server.request_bytes["rest"], server.too_large = 7_000, status
    records = [{**record, "id": f"{record['id']}.{n}"} for n in range(5) for record in RECORDS]
    report = QdrantLoader(server.client(timeout=1), "docs", embedder, **SETTINGS).load(records)
    assert len(server.collections["docs"].points()) == report.chunks == 300
    assert report.chunks == report.embedded == len(embedder.embedded)
    assert report.retries == 0
    refused = [write.bytes for write in server.writes() if write.bytes > 7_000]
    assert 0 < len(refused) < 15  # the limit is remembered for later batches


def test_one_point_that_is_too_large_is_named(server, embedder):
    server.request_bytes["rest"] = 3_000
    records = [{"id": "small", "text": "a mill"}, {"id": "large", "text": "mill " * 1000}]
    with pytest.raises(
        WriteError, match=r"chunk 0 of record 'large' alone is about 1\d,\d{3} bytes"
    ):
        QdrantLoader(server.client(timeout=1), "docs", embedder, chunk_size=None).load(records)
    assert [p["page_content"] for p, _ in server.collections["docs"].points().values()] == [
        "a mill"
    ]


def test_requests_keep_to_the_limits(server, embedder, undisturbed):
    server.strict = {"upsert_max_batchsize": 7}
    loader = QdrantLoader(
        server.client(timeout=1), "docs", embedder, request_bytes=8_000, **SETTINGS
    )
    loader.load(RECORDS)
    assert_complete(server, undisturbed)
    assert max(write.points for write in server.writes()) <= 7
    assert max(write.bytes for write in server.writes()) < 10_000


def test_several_threads_write_and_documents_stay_in_order(server, embedder):
    server.delay = 0.05
    long = {"id": "long", "text": " ".join(f"Sentence number {n} is here." for n in range(120))}
    loader = QdrantLoader(server.client(timeout=5), "docs", embedder, **SETTINGS)
    loader.load([*RECORDS, long])
    assert 2 <= server.most_writing <= 4
    chunks = [
        payload["quernstone"]["chunk"]
        for payload, _ in server.collections["docs"].points().values()
        if payload["doc_id"] == "long"
    ]
    assert len(chunks) > 50
    assert chunks == sorted(chunks)  # a dict keeps the order of the writes


def test_lookups_and_scrolls_are_repeated_too(server, embedder):
    loader = QdrantLoader(server.client(timeout=1), "docs", embedder, **SETTINGS)
    loader.load(RECORDS)
    failed = set()

    def fail_each_path_once(method, path):
        if path in failed or "/points" not in path:
            return None
        failed.add(path)
        return "500"

    server.chaos = fail_each_path_once
    report = loader.load(RECORDS[:30], prune=True)
    assert {path.removeprefix("/collections/docs/points") for path in failed} == {
        "", "/scroll", "/delete",
    }  # fmt: skip
    assert report.retries == 3
    assert {p["doc_id"] for p, _ in server.collections["docs"].points().values()} == {
        record["id"] for record in RECORDS[:30]
    }
    assert report.pruned == 16


def test_no_server_at_all_is_said_soon(embedder, monkeypatch):
    monkeypatch.setattr("quernstone_qdrant.loader.OPENING_PATIENCE", 0.2)  # instead of 5 s
    client = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    started = time.monotonic()
    with pytest.raises(TargetError, match="refused"):
        QdrantLoader(client, "docs", embedder)
    assert time.monotonic() - started < 5


def first_of_each_kind():
    """Return a `Server.chaos` that fails the first request with each method and path."""
    failed = set()

    def fail_first(method, path):
        new = (method, path) not in failed
        failed.add((method, path))
        return "500" if new else None

    return fail_first


def test_each_kind_of_request_may_fail_once_in_a_first_load(embedder):
    options = {"preset": "mrl", "hybrid": True, "defer_index": "threshold"}
    options["settings"] = {"indexes": {"year": "integer"}}
    made = []
    with running_server("1.20.0") as server:
        for name in ("undisturbed", "docs"):
            client = server.client()
            report = QdrantLoader(client, name, embedder, **SETTINGS, **options).load(RECORDS)
            found = server.collections[name]
            assert report.embedded == len(found.points())
            made.append((found.config, found.schema()))
            server.chaos = first_of_each_kind()
    assert made[0] == made[1]


def load(client, embedder, count=3, **options):
    loader = QdrantLoader(client, "docs", embedder, hybrid=True, batch_size=2, **options)
    report = loader.load(RECORDS[:count], source="all", prune=True)
    return replace(report, seconds=0, retries=0)


OPERATIONS = {
    "load": load,
    "load-deferred": partial(load, count=0, defer_index="threshold"),
    "search": lambda client, embedder: QdrantSearcher(client, "docs", embedder).search("mills"),
    "verify": lambda client, embedder: verify(as_target(client, "docs"), embedder),
    "repair": lambda client, _: repair(as_target(client, "docs")),
    "prune": lambda client, _: prune_missing(
        as_target(client, "docs"), [to_record(RECORDS[0], 0)], every_source=True, dry_run=False
    ),
}


@pytest.mark.parametrize(
    "grpc",
    [pytest.param(False, id="rest"), pytest.param(True, id="grpc", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_one_request_may_fail(server, make_embedder, monkeypatch, operation, grpc):
    """Each request of an operation fails once, in a run of its own; the results are equal."""
    monkeypatch.setattr("quernstone_qdrant.retry._backoff", lambda _: 0.0)
    client = server.client(prefer_grpc=grpc)
    results, number, count = [], 0, itertools.count(1)

    def fail(method, path):
        return "500" if (method, path) != ("GET", "/") and next(count) == number else None

    while number < next(count):
        server.chaos = None
        if not number or operation not in ("search", "verify"):
            server.client().delete_collection("docs")
        if operation != "load":
            load(client, make_embedder(), count=4)
        if operation == "repair":
            ids = list(server.collections["docs"].points())
            wrong = [models.PointVectors(id=point, vector={"bm25": WRONG}) for point in ids]
            client.update_vectors("docs", wrong)
        server.chaos, count = fail, itertools.count(1)
        results.append(OPERATIONS[operation](client, make_embedder()))
        number += 1
    assert number > 3
    assert [result for result in results if result != results[0]] == []

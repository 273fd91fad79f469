"""Loads that defer the index of their collection, through a server."""

import threading

import pytest
from qdrant_client import models
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, QdrantLoader
from quernstone_qdrant.provenance import METADATA_KEY
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.targets.deferred_indexing import DEFERRED_KEY

RECORDS = [{"id": f"d{n}", "text": f"stone mill {n}", "year": 1200 + n} for n in range(20)]


@pytest.fixture
def running(shared_server):
    return shared_server


@pytest.fixture
def client(either_client):
    return either_client


def config(running, name="docs"):
    return running.collections[name].config


def test_the_graph_does_not_change_while_it_is_deferred(client, running, embedder):
    QdrantLoader(client, "docs", embedder, settings={"m": 32}).load(RECORDS)
    target = as_target(client, "docs")
    with target.deferred_index("threshold"):
        assert QdrantLoader(client, "docs", embedder).load(RECORDS).embedded == 0
        with pytest.raises(CollectionError, match="`m` cannot change while a load defers"):
            QdrantLoader(client, "docs", embedder, settings={"m": 8})
    assert config(running)["hnsw_config"]["m"] == 32


def test_m0_keeps_the_graph_of_a_collection_with_points(client, running, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    client.update_collection(
        "docs", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1)
    )
    graphs = running.collections["docs"].optimizer.graphs
    assert graphs == {"": len(RECORDS)}
    seen = []

    def look(report):
        seen.append(dict(running.collections["docs"].optimizer.graphs))

    loader = QdrantLoader(client, "docs", embedder, defer_index="m0", progress=look)
    report = loader.load([*RECORDS, {"id": "new", "text": "rain"}])
    assert seen
    assert all(graph[""] >= len(RECORDS) for graph in seen)
    assert "index deferred by `threshold` instead of `m0`" in report.notes[0]
    assert config(running)["optimizer_config"]["indexing_threshold"] == 1
    assert [key for key in running.collections["docs"].metadata if key != METADATA_KEY] == []


def test_an_index_is_deferred_and_restored_through_a_server(client, running, embedder):
    seen = []

    def look(report):
        state = running.collections["docs"]
        seen.append((state.config["hnsw_config"]["m"], sorted(state.metadata)))

    QdrantLoader(client, "docs", embedder, defer_index="m0", progress=look).load(RECORDS)
    assert {m for m, _ in seen} == {0}
    assert all(keys[1].startswith(f"{DEFERRED_KEY}:") for _, keys in seen)
    assert config(running)["hnsw_config"]["m"] == 16
    assert list(running.collections["docs"].metadata) == [METADATA_KEY]


def test_a_finished_load_does_not_fail_for_lack_of_its_figures(client, running, embedder):
    reads = 0

    def count_reads(method, path):
        nonlocal reads
        reads += (method, path) == ("GET", "/collections/docs")
        return "500" if reads == refused else None

    refused = -1
    loader = QdrantLoader(client, "docs", embedder, patience=0)
    loader.load(RECORDS)
    running.chaos = count_reads
    assert loader.load([{**record, "year": 1} for record in RECORDS]).points == len(RECORDS)
    refused, reads = reads, 0  # the last request of the next load
    report = loader.load([{**record, "year": 2} for record in RECORDS])
    assert reads == refused
    assert (report.embedded, report.points, report.status) == (len(RECORDS), None, "")


def test_two_loads_that_defer_at_once_leave_the_original_settings(running, client, embedder):
    QdrantLoader(client, "docs", embedder, settings={"m": 24})
    both = threading.Barrier(2, timeout=30)
    reports = []

    def load(number):
        records = [{**record, "id": f"{number}-{record['id']}"} for record in RECORDS]
        waited = iter([both.wait])
        reports.append(
            QdrantLoader(
                running.client(),
                "docs",
                embedder,
                defer_index="m0",
                progress=lambda _: next(waited, lambda: None)(),  # no load ends before both began
            ).load(records)
        )

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.embedded for report in reports] == [len(RECORDS)] * 2
    assert config(running)["hnsw_config"]["m"] == 24
    assert config(running)["optimizer_config"]["indexing_threshold"] == 10000
    assert list(running.collections["docs"].metadata) == [METADATA_KEY]


def test_metadata_that_a_cluster_shows_late(embedder):
    with running_server(nodes=3) as server:
        server.metadata_delay = 0.2
        server.float_noise = True
        loader = QdrantLoader(server.client(), "docs", embedder, defer_index="m0")
        assert loader.load(RECORDS).notes == ()
        assert server.collections["docs"].config["hnsw_config"]["m"] == 16
        assert list(server.collections["docs"].metadata) == [METADATA_KEY]

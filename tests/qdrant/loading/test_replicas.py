"""On a cluster, a load that reports completion has every point on every replica."""

import threading

import pytest
import tenacity
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.qdrant.conftest import WordEmbedder
from tests.support.qdrant_server import running_server

from quernstone_qdrant import QdrantLoader, TargetError, WriteError, retry, store
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.loading.prune import prune_missing
from quernstone_qdrant.targets import as_target

RECORDS = [{"id": f"d{n}", "text": f"Document {n} speaks of mills."} for n in range(40)]
SETTINGS = {"batch_size": 10}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(store, "_REPLICA_PATIENCE", 0.1)
    monkeypatch.setattr(retry, "_backoff", tenacity.wait_fixed(0.02))


def texts(server, live_only=False):
    """Return the texts of each replica."""
    replicas = [
        replica
        for replica in server.collections["docs"].replicas
        if not live_only or (server.nodes[replica.node].running and replica.state == "Active")
    ]
    return [
        {payload["page_content"] for payload, _ in held(server, replica.node).values()}
        for replica in replicas
    ]


def held(server, node):
    return server.collections["docs"].points(node)


def replica_nodes(server):
    return [replica.node for replica in server.collections["docs"].replicas]


ALL = {record["text"] for record in RECORDS}


@pytest.mark.parametrize("grpc", [False, True])
def test_a_node_that_is_killed_and_restarted_lacks_nothing(embedder, grpc):
    with running_server(nodes=3, write_consistency=2) as server:
        QdrantLoader(server.client(), "docs", embedder)
        node = next(node for node in replica_nodes(server) if node)

        def records():
            for number, record in enumerate(RECORDS):
                if number == 15:
                    server.nodes[node].kill()
                    threading.Timer(0.5, server.nodes[node].start).start()
                yield record

        client = server.client(prefer_grpc=grpc)
        report = QdrantLoader(client, "docs", embedder, **SETTINGS).load(records())
        assert report.retries > 0
        assert report.chunks == report.embedded == 40
        assert texts(server) == [ALL, ALL]


def test_a_write_on_one_replica_only_is_repeated(embedder):
    with running_server(nodes=3, write_consistency=2) as server:
        loader = QdrantLoader(server.client(), "docs", embedder, **SETTINGS)
        server.script = ["partial", None, "partial", "partial"]
        assert loader.load(RECORDS).retries == 3
        assert server.faults["partial"] == 3
        assert texts(server) == [ALL, ALL]


def test_what_a_replica_lacks_is_written_by_the_next_load(embedder):
    with running_server(nodes=3, write_consistency=2) as server:
        server.script = ["partial"]
        with pytest.raises(WriteError):
            QdrantLoader(server.client(), "docs", embedder, patience=0).load(RECORDS)
        assert sorted(map(len, texts(server))) == [0, 40]
        for _ in range(2):  # by whichever replica is asked first
            report = QdrantLoader(server.client(), "docs", embedder).load(RECORDS)
            assert texts(server) == [ALL, ALL]
        assert (report.skipped, report.unconfirmed) == (40, 0)


def test_what_cannot_be_confirmed_is_written_again(embedder):
    with running_server(nodes=3, write_consistency=1) as server:
        loader = QdrantLoader(server.client(), "docs", embedder, **SETTINGS)
        loader.load(RECORDS)
        node = next(node for node in replica_nodes(server) if node)
        server.nodes[node].kill()
        report = loader.load([*RECORDS[:39], {"id": "d39", "text": "Edited."}])
        # after the first write, the cluster has given up the lost replica, and the other decides
        assert report.unconfirmed >= 10
        assert report.embedded == report.unconfirmed + 1
        assert report.skipped == 39 - report.unconfirmed
        server.nodes[node].start()
        expected = {record["text"] for record in RECORDS[:39]} | {"Edited."}
        assert texts(server) == [expected, expected]


def test_a_shortened_document_loses_its_end_while_a_node_is_down(embedder):
    with running_server(nodes=3, write_consistency=1) as server:
        options = {"chunk_size": 40, "chunk_overlap": 0}
        loader = QdrantLoader(server.client(), "docs", embedder, **options)
        loader.load([{"id": "a", "text": "One sentence is here. Another one is here. " * 3}])
        server.nodes[next(node for node in replica_nodes(server) if node)].kill()
        report = loader.load([{"id": "a", "text": "One sentence is here."}])
        assert report.removed > 0
        assert texts(server, live_only=True) == [{"One sentence is here."}]


def test_nothing_is_pruned_while_a_replica_cannot_be_asked(embedder):
    with running_server(nodes=3, write_consistency=1) as server:
        loader = QdrantLoader(server.client(), "docs", embedder, patience=0.3)
        loader.load(RECORDS)
        node = next(node for node in replica_nodes(server) if node)
        server.nodes[node].kill()
        target = as_target(server.client(), "docs")
        keep = [Record(f"d{n}", "") for n in range(30)]
        from quernstone_qdrant.loading import prune

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prune, "_PATIENCE", 0.3)
            with pytest.raises(TargetError, match="Failed to connect"):
                prune_missing(target, keep, every_source=True, dry_run=False)
        assert texts(server) == [ALL, ALL]
        server.nodes[node].start()
        assert prune_missing(target, keep, every_source=True, dry_run=False) == 10
        kept = {record["text"] for record in RECORDS[:30]}
        assert texts(server) == [kept, kept]


class ReplicatedLoads(RuleBasedStateMachine):
    """Loads over three replicas, with lost answers and killed nodes."""

    def __init__(self):
        super().__init__()
        self.running = running_server(nodes=3, write_consistency=2)
        self.server = self.running.__enter__()
        self.server.replication["replication_factor"] = 3
        self.documents = {f"d{n}": 0 for n in range(6)}
        self.completed = None
        """Texts that the last load reported as stored; None after one that failed."""
        QdrantLoader(self.server.client(), "docs", WordEmbedder())

    def teardown(self):
        self.running.__exit__(None, None, None)

    @rule(key=st.sampled_from([f"d{n}" for n in range(6)]))
    def edit(self, key):
        self.documents[key] += 1

    @rule(node=st.integers(0, 2))
    def kill(self, node):
        if sum(other.running for other in self.server.nodes) > 1:
            self.server.nodes[node].kill()

    @rule(node=st.integers(0, 2))
    def restart(self, node):
        self.server.nodes[node].start()

    @rule(faults=st.lists(st.sampled_from(["lost", "partial", "drop", "500", "acknowledged"])))
    def fail_writes(self, faults):
        self.server.script = faults

    @rule(patience=st.sampled_from([0, 0.3]), number=st.integers(0, 2))
    def load(self, patience, number):
        up = [i for i, node in enumerate(self.server.nodes) if node.running]
        client = self.server.client(node=up[number % len(up)])
        records = [
            {"id": key, "text": f"Document {key}, version {version}."}
            for key, version in self.documents.items()
        ]
        self.completed = None
        try:
            loader = QdrantLoader(client, "docs", WordEmbedder(), batch_size=2, patience=patience)
            report = loader.load(records)
        except TargetError:
            return
        assert report.embedded + report.skipped == 6
        self.completed = {record["text"] for record in records}

    @precondition(lambda self: self.completed is not None)
    @invariant()
    def every_live_replica_has_every_point(self):
        for found in texts(self.server, live_only=True):
            assert found == self.completed


def run_machine(examples, steps):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        ReplicatedLoads,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_completion_means_every_replica():
    run_machine(examples=4, steps=8)


@pytest.mark.slow
def test_completion_means_every_replica_after_many_faults():
    run_machine(examples=25, steps=20)

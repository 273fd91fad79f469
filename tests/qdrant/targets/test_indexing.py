"""Waiting for the index, against a stub that keeps a collection's settings."""

import pytest
from qdrant_client import QdrantClient, models

from quernstone_qdrant import CollectionError, TargetError
from quernstone_qdrant.errors import TransientError
from quernstone_qdrant.targets import ClientTarget
from quernstone_qdrant.targets.indexing import running_optimizations, wait_until_green


def step(name, done=None, total=None, children=()):
    return {"name": name, "done": done, "total": total, "children": list(children)}


OPTIMIZATIONS = {
    "summary": {
        "queued_optimizations": 2,
        "queued_segments": 5,
        "queued_points": 40_000,
        "idle_segments": 1,
    },
    "running": [
        {
            "uuid": "b9f467dd-7ddb-4b45-a0ef-115a395583e1",
            "optimizer": "indexing",
            "status": "optimizing",
            "segments": [],
            "progress": step(
                "segment", children=[step("copy", 50, 50), step("graph", 25, 150), step("end")]
            ),
        }
    ],
}


class Server:
    """What a Qdrant server says and remembers about one collection."""

    def __init__(self):
        self.hnsw = {"m": 24, "ef_construct": 100, "full_scan_threshold": 10000}
        self.optimizers = {
            "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000,
            "default_segment_number": 0, "flush_interval_sec": 5, "indexing_threshold": 12345,
        }  # fmt: skip
        self.vectors = {
            "dense": {"size": 4, "distance": "Cosine", "hnsw_config": {"m": 0}},
            "prefix": {"size": 2, "distance": "Cosine"},
            "own": {"size": 2, "distance": "Cosine", "hnsw_config": {"m": 8}},
        }
        self.metadata = {}
        self.states = [("green", "ok", 0)]
        """(status, optimizer_status, length of the queue), or None: no answer. The last stays."""
        self.asked = 0
        self.updates = []
        self.failures = 0
        """Updates that are going to fail."""

    def answer(self, method, path, body):
        if path.endswith("/exists"):
            return 200, {"exists": True}
        if path.endswith("/optimizations"):
            return 200, OPTIMIZATIONS
        if method == "PATCH":
            if self.failures:
                self.failures -= 1
                return 500, None
            self.updates.append(body)
            self.hnsw |= body.get("hnsw_config", {})
            for name, value in body.get("optimizers_config", {}).items():
                self.optimizers[name] = value
            for name, change in body.get("vectors", {}).items():
                self.vectors[name]["hnsw_config"] = change["hnsw_config"]
            for key, value in (body.get("metadata") or {}).items():
                if value is None:
                    self.metadata.pop(key, None)
                else:
                    self.metadata[key] = value
            return 200, True
        state = self.states[min(self.asked, len(self.states) - 1)]
        self.asked += 1
        if state is None:
            return 503, None
        status, optimizer, queued = state
        return 200, {
            "status": status,
            "optimizer_status": optimizer,
            "segments_count": 1,
            "points_count": 1,
            "payload_schema": {},
            "update_queue": {"length": queued},
            "config": {
                "params": {"vectors": self.vectors},
                "hnsw_config": self.hnsw,
                "optimizer_config": self.optimizers,
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "metadata": self.metadata,
            },
        }


@pytest.fixture
def server(serve):
    server = Server()
    server.url = serve(server.answer)
    return server


@pytest.fixture
def target(server):
    client = QdrantClient(url=server.url, check_compatibility=False)
    yield ClientTarget(client, "docs")
    client.close()


def test_a_server_that_is_away_for_a_moment_is_waited_for(server, target):
    server.states = [None, ("yellow", "ok", 0), None, ("green", "ok", 0), ("green", "ok", 0)]
    server.asked = 0
    wait_until_green(target, timeout=30, interval=0)
    assert server.asked == 5
    server.states = [None]
    with pytest.raises(TransientError):
        wait_until_green(target, timeout=0, interval=0)


def test_green_is_believed_the_second_time(server, target):
    server.states = [
        ("yellow", "ok", 3),
        ("green", "ok", 0),
        ("yellow", "ok", 0),
        ("green", "ok", 2),
        ("green", "ok", 0),
        ("green", "ok", 0),
    ]
    wait_until_green(target, timeout=30, interval=0)
    assert server.asked == 6
    assert server.updates == []


def test_grey_is_woken_up(server, target):
    server.states = [("grey", "ok", 0), ("yellow", "ok", 0), ("green", "ok", 0)]
    wait_until_green(target, timeout=30, interval=0)
    assert server.updates == [{"optimizers_config": {}}]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (("red", "ok", 0), "its optimiser failed: the server gives no reason; see its log"),
        (("yellow", {"error": "no space left"}, 0), "its optimiser failed: no space left"),
        (("red", {"error": "no space left"}, 0), "its optimiser failed: no space left"),
    ],
)
def test_red_is_an_error_that_says_what_the_optimiser_said(server, target, state, message):
    server.states = [("yellow", "ok", 0), state]
    with pytest.raises(CollectionError, match=message):
        wait_until_green(target, timeout=30, interval=0)


def test_waiting_has_an_end(server, target):
    server.states = [("yellow", "ok", 7)]
    with pytest.raises(TargetError, match="still yellow after 0 s, with 7 writes queued"):
        wait_until_green(target, timeout=0, interval=0)


def test_the_embedded_client_has_nothing_to_wait_for(client, monkeypatch):
    monkeypatch.setattr(client, "get_collection", None)
    ClientTarget(client, "docs").wait_for_index(timeout=0)


def test_waiting_shows_what_the_optimizer_runs(server, target):
    server.states = [("yellow", "ok", 0), ("green", "ok", 0), ("green", "ok", 0)]
    shown = []
    wait_until_green(target, timeout=30, interval=0, progress=shown.append)
    assert shown == ["indexing 38%, 2 queued with 40,000 points"] * 3
    nothing = {
        "summary": {**dict.fromkeys(OPTIMIZATIONS["summary"], 0), "idle_segments": 8},
        "running": [],
    }
    assert running_optimizations(models.OptimizationsResponse(**nothing)) == ""

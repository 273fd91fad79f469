"""Indexing put off, put back and waited for, against a stub that keeps a collection's settings."""

import subprocess
import sys

import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant import CollectionError, TargetError
from quernstone_qdrant.errors import TransientError
from quernstone_qdrant.targets import ClientTarget, indexing
from quernstone_qdrant.targets.indexing import DEFERRED_KEY, deferred_index, wait_until_green


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

    def index(self):
        m = {n: v.get("hnsw_config", {}).get("m") for n, v in self.vectors.items()}
        return self.hnsw["m"], m, self.optimizers["indexing_threshold"]


ORIGINAL = (24, {"dense": 0, "prefix": None, "own": 8}, 12345)
DEFERRED = {
    "m0": (0, {"dense": 0, "prefix": None, "own": 0}, 12345),
    "threshold": (24, {"dense": 0, "prefix": None, "own": 8}, 0),
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


@pytest.mark.parametrize("how", ["m0", "threshold"])
def test_indexing_is_put_off_and_back(server, target, how):
    with deferred_index(target, how):
        assert server.index() == DEFERRED[how]
        assert DEFERRED_KEY in server.metadata
    assert server.index() == ORIGINAL
    assert server.metadata == {}


def test_it_is_written_down_before_anything_changes(server, target):
    with deferred_index(target, "m0"):
        pass
    assert [sorted(update) for update in server.updates[:2]] == [
        ["metadata"],
        ["hnsw_config", "optimizers_config", "vectors"],
    ]


def test_it_is_put_back_when_the_load_fails(server, target):
    with pytest.raises(ZeroDivisionError), deferred_index(target, "m0"):
        1 / 0  # noqa: B018
    assert server.index() == ORIGINAL
    assert server.metadata == {}


@pytest.mark.parametrize(("how", "then"), [("m0", "none"), ("m0", "m0"), ("threshold", "m0")])
def test_after_a_crash_the_next_load_puts_the_original_values_back(server, target, how, then):
    code = (
        "import os\n"
        "from qdrant_client import QdrantClient\n"
        "from quernstone_qdrant.targets import ClientTarget\n"
        "from quernstone_qdrant.targets.indexing import deferred_index\n"
        f"client = QdrantClient(url={server.url!r}, check_compatibility=False)\n"
        f"with deferred_index(ClientTarget(client, 'docs'), {how!r}):\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert server.index() == DEFERRED[how]
    with deferred_index(target, then):
        # a load that defers indexing as well keeps the values that the first one saved
        assert server.index() == (ORIGINAL if then == "none" else DEFERRED[how])
    assert server.index() == ORIGINAL
    assert server.metadata == {}


def test_a_server_that_is_gone_at_the_end_does_not_hide_the_first_error(
    server, target, monkeypatch
):
    def load():
        with deferred_index(target, "m0"):
            server.failures = 1000
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        load()
    server.failures = 0
    assert server.index() == DEFERRED["m0"]
    with deferred_index(target, "none"):
        assert server.index() == ORIGINAL
    monkeypatch.setattr(indexing, "_RESTORE_PATIENCE", 0)
    with pytest.raises(TargetError, match="changing the index"), deferred_index(target, "m0"):
        server.failures = 1000


def test_a_server_that_is_away_for_a_moment_is_waited_for(server, target):
    with deferred_index(target, "m0"):
        server.failures = 1
    assert server.index() == ORIGINAL
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
    assert server.index() == ORIGINAL


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

"""Waiting for the index, against a server that says in which state it is."""

import pytest
from qdrant_client import models
from tests.support.qdrant_server import running_server

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


class States:
    """Lets a server describe its collection by one state after the other; the last one stays.

    A state is (status, error of the optimizer, queued writes), or None: the server is away.
    """

    def __init__(self, server, *states):
        self.asked = 0
        self._server, self._states = server, states
        server.chaos = self._next

    def _next(self, method, path):
        if (method, path) != ("GET", "/collections/docs"):
            return None
        state = self._states[min(self.asked, len(self._states) - 1)]
        self.asked += 1
        if state is None:
            return "503"
        server = self._server
        server.status, server.optimizer_error, server.queued_writes = state
        return None


@pytest.fixture
def server():
    with running_server() as server:
        server.keep_bodies = True
        server.optimizations = OPTIMIZATIONS
        yield server


@pytest.fixture
def target(server):
    client = server.client()
    client.create_collection("docs", vectors_config={})
    return ClientTarget(client, "docs")


def updates(server):
    return [request.body for request in server.requests if request.method == "PATCH"]


def test_a_server_that_is_away_for_a_moment_is_waited_for(server, target):
    green, yellow = ("green", None, 0), ("yellow", None, 0)
    states = States(server, None, yellow, None, green, green)
    wait_until_green(target, timeout=30, interval=0)
    assert states.asked == 5
    States(server, None)
    with pytest.raises(TransientError):
        wait_until_green(target, timeout=0, interval=0)


def test_green_is_believed_the_second_time(server, target):
    states = States(
        server,
        ("yellow", None, 3),
        ("green", None, 0),
        ("yellow", None, 0),
        ("green", None, 2),
        ("green", None, 0),
        ("green", None, 0),
    )
    wait_until_green(target, timeout=30, interval=0)
    assert states.asked == 6
    assert updates(server) == []


def test_grey_is_woken_up(server, target):
    States(server, ("grey", None, 0), ("yellow", None, 0), ("green", None, 0))
    wait_until_green(target, timeout=30, interval=0)
    assert updates(server) == [{"optimizers_config": {}}]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (("red", None, 0), "its optimizer failed: the server gives no reason; see its log"),
        (("yellow", "no space left", 0), "its optimizer failed: no space left"),
        (("red", "no space left", 0), "its optimizer failed: no space left"),
    ],
)
def test_red_is_an_error_that_says_what_the_optimizer_said(server, target, state, message):
    States(server, ("yellow", None, 0), state)
    with pytest.raises(CollectionError, match=message):
        wait_until_green(target, timeout=30, interval=0)


def test_waiting_has_an_end(server, target):
    States(server, ("yellow", None, 7))
    with pytest.raises(TargetError, match="still yellow after 0 s, with 7 writes queued"):
        wait_until_green(target, timeout=0, interval=0)


def test_the_embedded_client_has_nothing_to_wait_for(client, monkeypatch):
    monkeypatch.setattr(client, "get_collection", None)
    ClientTarget(client, "docs").wait_for_index(timeout=0)


def test_waiting_shows_what_the_optimizer_runs(server, target):
    States(server, ("yellow", None, 0), ("green", None, 0), ("green", None, 0))
    shown = []
    wait_until_green(target, timeout=30, interval=0, progress=shown.append)
    assert shown == ["indexing 38%, 2 queued with 40,000 points"] * 3
    nothing = {
        "summary": {**dict.fromkeys(OPTIMIZATIONS["summary"], 0), "idle_segments": 8},
        "running": [],
    }
    assert running_optimizations(models.OptimizationsResponse(**nothing)) == ""

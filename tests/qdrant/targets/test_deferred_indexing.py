"""Deferred indexing: who restores it, in which order loads begin, end and crash."""

import json
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quernstone_qdrant import CollectionError, TargetError
from quernstone_qdrant.errors import TransientError
from quernstone_qdrant.targets import CollectionState, deferred_indexing
from quernstone_qdrant.targets.base import IndexConfig
from quernstone_qdrant.targets.deferred_indexing import (
    DEFERRED_KEY,
    deferred_index,
    deferring_loads,
    restore_index,
)

ORIGINAL = IndexConfig(m=24, vectors={"dense": 0, "own": 8}, threshold=12345)
DEFERRED = {
    "m0": IndexConfig(m=0, vectors={"dense": 0, "own": 0}, threshold=12345),
    "threshold": IndexConfig(m=24, vectors={"dense": 0, "own": 8}, threshold=0),
}


class Collection:
    """The part of a server's collection that deferred indexing uses. Calls may block."""

    collection = "docs"

    def __init__(self, points=0):
        self.points = points
        self.index = ORIGINAL
        self.metadata = {"other": 1}
        self.calls = []
        self.failures = 0
        self.wait_for_turn = lambda: None

    def state(self):
        self.wait_for_turn()
        return CollectionState(
            metadata=dict(self.metadata), points=self.points, vectors={}, index=self.index
        )

    def count(self):
        self.wait_for_turn()
        return self.points

    def optimizations(self):
        return ""

    def describe(self, metadata):
        self._fail("writing the metadata")
        self.calls.append("describe")
        merged = {**self.metadata, **metadata}
        self.metadata = {key: value for key, value in merged.items() if value is not None}

    def change_index(self, config):
        self._fail("changing the index")
        self.calls.append("change")
        self.index = IndexConfig(
            m=self.index.m if config.m is None else config.m,
            vectors={**self.index.vectors, **config.vectors},
            threshold=self.index.threshold if config.threshold is None else config.threshold,
        )

    def _fail(self, doing):
        self.wait_for_turn()
        if self.failures:
            self.failures -= 1
            raise TransientError(f"Qdrant failed at {doing}")

    @property
    def untouched(self):
        return self.index == ORIGINAL and self.metadata == {"other": 1}


@pytest.fixture
def target():
    return Collection()


def crashed(**changes):
    """The metadata of a load that crashed a day ago on another machine."""
    stored = {"m": 24, "vectors": {"dense": 0, "own": 8}, "threshold": 12345, "how": "m0"}
    return {f"{DEFERRED_KEY}:gone": {**stored, "since": 1.0, "renewed": 1.0, **changes}}


@pytest.mark.parametrize("how", ["m0", "threshold"])
def test_indexing_is_deferred_and_restored(target, how):
    with deferred_index(target, how) as notes:
        assert target.index == DEFERRED[how]
        (one,) = deferring_loads(target.state())
        assert one.original == ORIGINAL
        assert one.running
    assert target.untouched
    assert notes == []


def test_the_original_values_are_saved_before_anything_changes(target):
    with deferred_index(target, "m0"):
        assert target.calls == ["describe", "change"]


def test_a_collection_with_points_keeps_its_graph(target):
    target.points = 1200
    with deferred_index(target, "m0") as notes:
        assert target.index == DEFERRED["threshold"]
    assert target.untouched
    assert notes == [
        "index deferred by `threshold` instead of `m0`: the collection holds 1,200 points, and "
        "`m0` would drop their graph"
    ]


def test_the_last_of_two_loads_restores(target):
    with deferred_index(target, "m0"):
        with deferred_index(target, "m0") as second:
            pass
        assert target.index == DEFERRED["m0"]
        assert len(second) == 1
        assert second[0].startswith("indexing stays deferred by a load that began at ")
        with deferred_index(target, "none") as third:
            assert target.index == DEFERRED["m0"]
        assert "indexing stays deferred" in third[0]
    assert target.untouched


def test_original_values_are_never_read_while_indexing_is_deferred(target):
    target.metadata |= crashed()
    target.index = DEFERRED["m0"]
    with deferred_index(target, "m0"):
        assert [one.original for one in deferring_loads(target.state())] == [ORIGINAL] * 2
    assert target.untouched


@given(
    order=st.lists(st.integers(0, 2), max_size=60),
    hows=st.lists(st.sampled_from(["m0", "threshold", "none"]), min_size=2, max_size=3),
    fails=st.integers(0, 7),
)
@settings(max_examples=60, deadline=None)
def test_loads_in_any_order_leave_the_original_settings(order, hows, fails):
    """Run loads in threads whose requests reach the server in the given order."""
    target = Collection()
    turns = threading.Condition()
    waiting, finished = set(), set()

    def turn():
        me = threading.current_thread().name
        if not me.isdecimal():
            return
        with turns:
            waiting.add(int(me))
            turns.notify_all()
            turns.wait_for(lambda: int(me) not in waiting)

    target.wait_for_turn = turn

    def load(number, how):
        try:
            with deferred_index(target, how):
                target.count()
                if fails >> number & 1:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        finally:
            with turns:
                finished.add(number)
                turns.notify_all()

    threads = [
        threading.Thread(target=load, args=(number, how), name=str(number))
        for number, how in enumerate(hows)
    ]
    for thread in threads:
        thread.start()
    choices = iter(order)
    while True:
        with turns:
            turns.wait_for(lambda: len(waiting) + len(finished) == len(hows))
            if len(finished) == len(hows):
                break
            chosen = sorted(waiting)[next(choices, 0) % len(waiting)]
            waiting.remove(chosen)
            turns.notify_all()
            while chosen not in waiting and chosen not in finished:
                turns.wait()
    for thread in threads:
        thread.join()
    assert target.untouched


@pytest.mark.parametrize("how", ["m0", "threshold"])
@pytest.mark.parametrize("then", ["none", "m0", "threshold"])
def test_after_a_crash_the_next_load_restores(target, how, then):
    target.metadata |= crashed(how=how)
    target.index = DEFERRED[how]
    with deferred_index(target, then) as notes:
        pass
    assert target.untouched
    if then == "none":
        assert notes == [
            "restored the index settings that a load that began at 1970-01-01 00:00:01 UTC "
            "(crashed) had deferred"
        ]


def test_a_killed_process_of_this_machine_is_recognized_at_once(target):
    if not deferred_indexing._machine():
        pytest.skip("this system does not identify its processes")
    code = (
        "import json, os, sys\n"
        "from quernstone_qdrant.targets.deferred_indexing import deferred_index\n"
        "from tests.qdrant.targets.test_deferred_indexing import Collection\n"
        "target = Collection()\n"
        "with deferred_index(target, 'm0'):\n"
        "    print(json.dumps(target.metadata), flush=True)\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    target.metadata, target.index = json.loads(done.stdout), DEFERRED["m0"]
    with deferred_index(target, "none"):
        assert target.untouched


def test_a_load_of_another_machine_runs_until_it_stops_renewing(target, monkeypatch):
    target.metadata |= crashed(renewed=deferred_indexing.time.time(), machine="other", process=1)
    target.index = DEFERRED["m0"]
    with deferred_index(target, "threshold") as notes:
        pass
    assert len(notes) == 1
    assert target.index.m == 0
    monkeypatch.setattr(deferred_indexing, "_STALE_SECONDS", 0)
    with deferred_index(target, "none"):
        assert target.untouched


def test_a_running_load_renews_its_registration(target, monkeypatch):
    monkeypatch.setattr(deferred_indexing, "_RENEW_SECONDS", 0.01)
    renewed = threading.Event()
    with deferred_index(target, "m0"):
        (first,) = deferring_loads(target.state())
        describe = target.describe
        target.describe = lambda metadata: (describe(metadata), renewed.set())
        assert renewed.wait(30)
        (later,) = deferring_loads(target.state())
        assert later.renewed > first.renewed
        assert later.original == ORIGINAL
        target.describe = describe
    assert target.untouched


def test_what_version_0_1_left_deferred_is_restored(target):
    target.metadata[DEFERRED_KEY] = {"m": 24, "vectors": {"own": 8}, "threshold": None}
    target.index = DEFERRED["m0"]
    with deferred_index(target, "threshold"):
        pass
    assert target.untouched


def test_restoring_by_hand_ends_all_registrations(target):
    assert restore_index(target) == []
    target.metadata |= crashed(renewed=deferred_indexing.time.time())
    target.index = DEFERRED["m0"]
    (ended,) = restore_index(target)
    assert ended.original == ORIGINAL
    assert target.untouched


def test_a_failed_load_restores(target):
    with pytest.raises(ZeroDivisionError), deferred_index(target, "m0"):
        1 / 0  # noqa: B018
    assert target.untouched


def test_a_server_that_is_gone_at_the_end_does_not_hide_the_first_error(target, monkeypatch):
    def load():
        with deferred_index(target, "m0"):
            target.failures = 1000
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        load()
    target.failures = 0
    assert target.index == DEFERRED["m0"]
    with deferred_index(target, "none"):
        assert target.untouched
    monkeypatch.setattr(deferred_indexing, "_PATIENCE", 0)
    with pytest.raises(TargetError, match="writing the metadata"), deferred_index(target, "m0"):
        target.failures = 1000


@pytest.mark.parametrize("how", ["none", "m0", "threshold"])
def test_a_server_that_is_away_for_a_moment_is_asked_again(target, how):
    target.metadata |= crashed()
    target.index = DEFERRED["m0"]
    target.failures = 1
    with deferred_index(target, how):
        assert target.failures == 0
        target.failures = 1
    assert target.untouched


def test_settings_that_a_server_does_not_keep_are_not_deferred(target, monkeypatch):
    monkeypatch.setattr(deferred_indexing, "_METADATA_PATIENCE", 0)
    target.describe = lambda metadata: None
    with (
        pytest.raises(CollectionError, match="does not keep the original index settings"),
        deferred_index(target, "m0"),
    ):
        pass
    assert target.untouched


def test_settings_that_do_not_come_back_are_an_error(target):
    with (
        pytest.raises(TargetError, match=r"still deferred: m is 0 instead of 24.*--restore"),
        deferred_index(target, "m0"),
    ):
        target.change_index = lambda config: None
    assert deferring_loads(target.state())[0].original == ORIGINAL

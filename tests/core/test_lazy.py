"""What the adapters hold their models in."""

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from quernstone.lazy import Lazy


class Thing:
    built = 0

    def __init__(self, **settings):
        time.sleep(0.01)
        type(self).built += 1
        self.settings = settings


@pytest.fixture(autouse=True)
def none_built(monkeypatch):
    monkeypatch.setattr(Thing, "built", 0)


def test_threads_build_once():
    lazy, start = Lazy(Thing), threading.Barrier(16)

    def use(_):
        start.wait()
        return lazy.get({"a": 1})

    with ThreadPoolExecutor(16) as pool:
        things = set(pool.map(use, range(16)))
    assert len(things) == Thing.built == 1


async def test_every_setting_is_built_once():
    lazy = Lazy(Thing)
    first, second = lazy.get({"a": 1}), lazy.get({"a": 2})
    assert (first.settings, second.settings) == ({"a": 1}, {"a": 2})
    assert await lazy.aget({"a": 1}) is first
    assert (await lazy.aget({"a": 3})).settings == {"a": 3}
    assert Thing.built == 3


def test_a_failure_is_not_kept():
    attempts = []

    def build(**_):
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("the disk was busy")
        return "built"

    lazy = Lazy(build)
    with pytest.raises(OSError, match="the disk was busy"):
        lazy.get({})
    assert lazy.get({}) == "built"


def test_copies_and_pickles_are_empty():
    lazy = Lazy(Thing)
    thing = lazy.get({"a": 1})
    for twin in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy)):
        assert twin == lazy
        assert hash(twin) == hash(lazy)
        assert twin.get({"a": 1}) is not thing
    assert lazy != "something else"

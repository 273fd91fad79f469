"""Backends that sessions of equal configuration share."""

import threading
import time

import pytest

from quernstone.runtime import sharing
from quernstone.types import EngineConfig


class RecordingBackend:
    """A backend that knows whether it was closed."""

    def __init__(self, started):
        started.append(self)
        self.closed = False

    def close(self):
        self.closed = True


def config(name):
    return EngineConfig(task="embed", model=name, engine="torch")


def test_equal_configurations_share_one_backend_until_the_last_is_released():
    started = []
    one, two = (sharing.acquire(config("a"), lambda: RecordingBackend(started)) for _ in range(2))
    other = sharing.acquire(config("b"), lambda: RecordingBackend(started))
    assert one is two
    assert started == [one, other]
    sharing.release(config("a"))
    assert not one.closed
    sharing.release(config("a"))
    assert one.closed
    assert not other.closed
    sharing.release(config("b"))
    assert other.closed


def test_concurrent_users_load_once():
    started = []

    def slowly():
        time.sleep(0.05)
        return RecordingBackend(started)

    threads = [
        threading.Thread(target=sharing.acquire, args=(config("c"), slowly)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    for _ in threads:
        sharing.release(config("c"))
    assert started[0].closed


def test_a_failed_start_is_not_remembered():
    def start():
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            sharing.acquire(config("d"), start)
    assert config("d") not in sharing._shared

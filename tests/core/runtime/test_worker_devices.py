"""The worker with an engine on each of several devices: who computes what, and what fails."""

import logging
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tests.core.runtime.test_worker_overlap import until

from quernstone import ClosedError, ConfigError, EngineError, EngineMemoryError, NonFiniteError
from quernstone.runtime.worker import Worker
from quernstone.types import Encoded, EngineInfo


class Device:
    """A sequence's row is its first token id and its length. Each batch takes a permit."""

    width = 2

    def __init__(self, number=0, *, budget=10, capacity=10**9, overlaps=False, dtype="float32"):
        self.info = EngineInfo(
            engine="test",
            device=f"cuda:{number}",
            dtype=dtype,
            attention="none",
            max_batch_tokens=budget,
        )
        self.capacity, self.overlaps = capacity, overlaps
        self.permits = threading.Semaphore(0)
        self.begun, self.batches = [], []
        self.fault = None
        self.closed = False

    def run(self, batch, *, precise=False):
        return self.launch(batch)()

    def launch(self, batch):
        numbers = [int(each.ids[0]) for each in batch]
        self.begun.append(numbers)

        def wait():
            assert self.permits.acquire(timeout=10)
            if self.fault is not None:
                raise self.fault
            if 666 in numbers:
                raise OSError("no device can")
            if sum(map(len, batch)) > self.capacity:
                raise EngineMemoryError(None, 0, "too much")
            self.batches.append(numbers)
            rows = [[n, len(each)] for n, each in zip(numbers, batch, strict=True)]
            found = np.array(rows, np.float32)
            found[found[:, 0] == 999, 1] = np.nan
            return found

        return wait

    def free(self):
        self.permits.release(100_000)
        return self

    def close(self):
        self.closed = True


def sequences(*numbers, length=10):
    return [Encoded(np.full(length, number, dtype=np.int32)) for number in numbers]


def rows_of(*numbers):
    return [[number, 10] for number in numbers]


@pytest.fixture
def started():
    workers, known = [], []

    def start(*devices):
        known.extend(devices)
        workers.append(Worker(*(lambda device=device: device for device in devices)))
        return workers[-1]

    yield start
    for each in known:
        each.free()
    for each in workers:
        each.close()


def test_shares_follow_the_speed_of_the_devices(started):
    fast, slow = Device(0), Device(1)
    work = started(fast, slow)
    future = work.submit(sequences(*range(60)))
    for turn in range(1, 11):  # the fast one computes three batches for each of the slow one
        fast.permits.release(3)
        slow.permits.release(1)
        until(lambda turn=turn: (len(fast.batches), len(slow.batches)) == (3 * turn, turn))
    for each in (fast, slow):
        each.free()
    assert future.result(5).tolist() == rows_of(*range(60))
    assert sorted(number for [number] in fast.batches + slow.batches) == list(range(60))


@pytest.mark.parametrize("overlaps", [False, True])
def test_no_device_waits_while_inputs_do(started, overlaps):
    devices = [Device(number, overlaps=overlaps) for number in range(3)]
    work = started(*devices)
    future = work.submit(sequences(*range(9)))
    ahead = 1 + overlaps  # batches that a device has in flight
    until(lambda: [len(each.begun) for each in devices] == [ahead] * 3)
    for each in devices:
        each.free()
    assert future.result(5).tolist() == rows_of(*range(9))


def test_the_model_is_described_with_all_its_devices(started):
    work = started(Device(0, budget=10).free(), Device(1, budget=30).free())
    assert (work.info.device, work.info.max_batch_tokens, work.engines) == ("cuda:0,cuda:1", 10, 2)
    assert (work.info.attention, work.info.graphs) == ("none", "")
    work.set_budget(20)
    work.submit(sequences(1, 2, 3, 4)).result(5)
    begun = [batch for runner in work._runners for batch in runner.engine.begun]
    assert sorted(begun) == [[1, 2], [3, 4]]


def test_out_of_memory_on_one_device_halves_its_batch(started):
    small, large = Device(0, budget=40, capacity=25), Device(1, budget=40)
    work = started(small, large)
    future = work.submit(sequences(*range(8)))
    until(lambda: small.begun and large.begun)
    for each in (small, large):
        each.free()
    assert future.result(5).tolist() == rows_of(*range(8))
    assert [len(batch) for batch in small.begun] == [4, 2, 2]
    assert [len(batch) for batch in large.begun] == [4]
    assert work.halved == 1


def test_errors_name_the_input(started):
    work = started(Device(0).free(), Device(1).free())
    with pytest.raises(NonFiniteError, match="input 12"):
        work.submit(sequences(1, 2, 999), 10).result(5)
    assert work.submit(sequences(4)).result(5).tolist() == rows_of(4)


def test_a_device_that_breaks_hands_its_batches_to_the_others(started, caplog):
    one, two = Device(0).free(), Device(1).free()
    work = started(one, two)
    work.submit(sequences(*range(6))).result(5)
    two.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    with caplog.at_level(logging.ERROR, "quernstone"):
        while not two.closed:
            assert work.submit(sequences(*range(20))).result(5).tolist() == rows_of(*range(20))
    assert "cuda:1 failed and is no longer used: CUDA error: an illegal" in caplog.text
    assert work.info.device == "cuda:0"
    begun = len(two.begun)
    assert work.submit(sequences(*range(20))).result(5).tolist() == rows_of(*range(20))
    assert len(two.begun) == begun
    one.fault = RuntimeError("CUDA error: unspecified launch failure")
    with pytest.raises(EngineError, match="unspecified launch failure"):  # as with one device
        work.submit(sequences(1)).result(5)
    one.fault = None
    assert work.submit(sequences(1)).result(5).tolist() == rows_of(1)


def test_both_batches_in_flight_move_to_another_device(started):
    one, two = Device(0), Device(1, overlaps=True)
    work = started(one, two)
    work._queue.known = sequences(1)[0]
    future = work.submit(sequences(*range(9)))
    until(lambda: len(one.begun) == 1 and len(two.begun) == 2)
    two.fault = RuntimeError("CUDA error: the launch timed out")
    two.free()
    until(lambda: two.closed)
    one.free()
    assert future.result(5).tolist() == rows_of(*range(9))
    assert len(one.batches) == 9


def test_a_batch_that_no_device_computes_fails_its_callers_only(started):
    work = started(Device(0).free(), Device(1).free())
    work.submit(sequences(1)).result(5)
    for _ in range(5):
        with pytest.raises(EngineError, match="OSError: no device can"):
            work.submit(sequences(2, 666)).result(5)
    assert work.info.device == "cuda:0,cuda:1"
    assert work.submit(sequences(3, 4)).result(5).tolist() == rows_of(3, 4)


def test_a_job_that_fails_on_two_devices_at_once_fails_once(started):
    one, two = Device(0, budget=10), Device(1, budget=10)
    work = started(one, two)
    bad = [Encoded(np.array([666] * 10 + [n], dtype=np.int32)) for n in (1, 2)]
    future = work.submit(bad)
    until(lambda: one.begun and two.begun)
    for each in (one, two):
        each.free()
    with pytest.raises(EngineError, match="OSError: no device can"):
        future.result(5)
    assert work.submit(sequences(3, 4, 5)).result(5).tolist() == rows_of(3, 4, 5)


def test_a_cancelled_job_leaves_all_devices_idle(started):
    devices = [Device(0), Device(1)]
    work = started(*devices)
    future = work.submit(sequences(*range(50)))
    until(lambda: all(each.begun for each in devices))
    assert future.cancel()
    for each in devices:
        each.free()
    assert work.submit(sequences(70)).result(5).tolist() == rows_of(70)
    with pytest.raises(CancelledError):
        future.result(5)
    assert sum(len(each.begun) for each in devices) == 3


def test_closing_finishes_what_was_submitted(started):
    one, two = Device(0), Device(1)
    work = started(one, two)
    future = work.submit(sequences(*range(20)))
    until(lambda: one.begun and two.begun)
    closing = threading.Thread(target=work.close)
    closing.start()
    until(lambda: work._queue.closing)
    for each in (one, two):
        each.free()
    closing.join(5)
    assert future.result(0).tolist() == rows_of(*range(20))
    assert one.closed
    assert two.closed
    with pytest.raises(ClosedError):
        work.submit(sequences(1))


def test_closing_waits_for_the_batches_of_a_device_that_breaks(started):
    one, two = Device(0), Device(1, overlaps=True)
    work = started(one, two)
    work._queue.known = sequences(1)[0]
    future = work.submit(sequences(2, 3, 4))
    until(lambda: len(one.begun) == 1 and len(two.begun) == 2)
    two.fault = RuntimeError("CUDA error: device lost")
    two.permits.release(2)  # for one batch, and for what was computed before
    until(lambda: work.info.device == "cuda:0")
    closing = threading.Thread(target=work.close)
    closing.start()
    until(lambda: work._queue.closing)
    one.free()
    until(lambda: len(one.batches) == 2)  # it has nothing left to do, and waits for the third
    two.free()
    closing.join(5)
    assert future.result(0).tolist() == rows_of(2, 3, 4)


def test_engines_that_do_not_load_or_do_not_match():
    def fail():
        raise ValueError("no memory")

    first = Device(0)
    with pytest.raises(ValueError, match="no memory"):
        Worker(lambda: first, fail)
    assert first.closed
    old, new = Device(0, dtype="float32"), Device(1, dtype="bfloat16")
    wanted = r"differs between the devices \(cuda:0 in float32, cuda:1 in bfloat16\): pass a dtype"
    with pytest.raises(ConfigError, match=wanted):
        Worker(lambda: old, lambda: new)
    assert old.closed
    assert new.closed


def test_many_threads_get_their_own_rows(started):
    work = started(*(Device(number, budget=64).free() for number in range(3)))
    failures = []

    def call(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            numbers = random.integers(0, 600, 9).tolist()
            rows = work.submit(sequences(*numbers)).result(20)
            if rows.tolist() != rows_of(*numbers):
                failures.append((seed, numbers, rows))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

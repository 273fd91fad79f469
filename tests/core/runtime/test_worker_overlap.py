"""The worker with an engine that launches: what is in flight while the next batch is prepared."""

import threading
import time

import numpy as np
import pytest

from quernstone import (
    ClosedError,
    EngineError,
    EngineMemoryError,
    InputTooLongError,
    NonFiniteError,
)
from quernstone.runtime.worker import Worker
from quernstone.types import Encoded, EngineInfo


class LaunchEngine:
    """A sequence's row is its first token id and its length. `events` holds what was done when.

    `faults` says what launching, or waiting for, a batch with a certain first id raises.
    """

    width = 2
    overlaps = True

    def __init__(self, budget=10, capacity=10**9):
        self.info = EngineInfo(
            engine="test", device="cpu", dtype="float32", attention="none", max_batch_tokens=budget
        )
        self.capacity = capacity
        self.events = []
        self.faults = {}
        self.in_flight = 0
        self.gate = threading.Event()
        self.gate.set()

    def run(self, batch, *, precise=False):
        return self._compute("precise" if precise else "run", batch, precise)

    def launch(self, batch):
        numbers = [int(sequence.ids[0]) for sequence in batch]
        self.events.append(("launch", numbers))
        self._fault("launch", numbers)
        self.in_flight += 1
        assert self.in_flight <= 2

        def wait():
            self.gate.wait(10)
            self.in_flight -= 1
            return self._compute("wait", batch, precise=False)

        return wait

    def _compute(self, what, batch, precise):
        numbers = [int(sequence.ids[0]) for sequence in batch]
        self.events.append((what, numbers))
        if sum(map(len, batch)) > self.capacity:
            raise EngineMemoryError(None, 0, "too much")
        self._fault(what, numbers)
        rows = np.array([[n, len(s)] for n, s in zip(numbers, batch, strict=True)], np.float32)
        rows[(rows[:, 0] == 888) & (not precise), 1] = np.nan
        return rows

    def _fault(self, what, numbers):
        for number in numbers:
            if (what, number) in self.faults:
                raise self.faults[what, number]

    def close(self):
        self.events.append(("close", []))


def sequences(*numbers, length=10):
    return [Encoded(np.full(length, number, dtype=np.int32)) for number in numbers]


@pytest.fixture
def started():
    workers = []

    def start(**settings):
        engine = LaunchEngine(**settings)
        workers.append(Worker(lambda: engine))
        return workers[-1], engine

    yield start
    for each in workers:
        each.close()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows_of(*numbers):
    return [[number, 10] for number in numbers]


def test_the_next_batch_is_launched_before_the_last_is_waited_for(started):
    work, engine = started()
    assert work.submit(sequences(1, 2, 3)).result(5).tolist() == rows_of(1, 2, 3)
    assert engine.events == [
        ("launch", [1]),
        ("launch", [2]),
        ("wait", [1]),
        ("launch", [3]),
        ("wait", [2]),
        ("wait", [3]),
    ]


def test_a_batch_is_handed_over_when_nothing_follows(started):
    work, engine = started()
    for number in (1, 2):
        assert work.submit(sequences(number)).result(5).tolist() == rows_of(number)
    assert engine.events == [("launch", [1]), ("wait", [1]), ("launch", [2]), ("wait", [2])]


def test_an_engine_that_does_not_overlap_is_run(started):
    work, engine = started()
    engine.overlaps = False
    assert work.submit(sequences(1, 2)).result(5).tolist() == rows_of(1, 2)
    assert engine.events == [("run", [1]), ("run", [2])]


def test_callers_that_come_meanwhile_share_the_next_batch(started):
    work, engine = started(budget=40)
    engine.gate.clear()
    first = work.submit(sequences(1))
    until(lambda: engine.events)
    others = [work.submit(sequences(number)) for number in (2, 3, 4)]
    engine.gate.set()
    results = [future.result(5).tolist() for future in (first, *others)]
    assert results == [rows_of(number) for number in (1, 2, 3, 4)]
    assert [numbers for what, numbers in engine.events if what == "launch"] == [[1], [2, 3, 4]]


def test_out_of_memory_at_launch_halves_the_batch_after_the_one_before_it(started):
    work, engine = started(budget=20)
    engine.faults["launch", 4] = EngineMemoryError(None, 20, "too much")
    assert work.submit(sequences(1, 2, 3, 4, 5)).result(5).tolist() == rows_of(1, 2, 3, 4, 5)
    assert engine.events == [
        ("launch", [1, 2]),
        ("launch", [3, 4]),
        ("wait", [1, 2]),
        ("run", [3]),
        ("run", [4]),
        ("launch", [5]),
        ("wait", [5]),
    ]
    assert work.halved == 1


def test_out_of_memory_at_waiting_halves_the_batch(started):
    work, engine = started(budget=40, capacity=15)
    assert work.submit(sequences(1, 2, 3, 4, 5)).result(5).tolist() == rows_of(1, 2, 3, 4, 5)
    assert [event for event in engine.events if event[0] == "run"] == [
        ("run", [1, 2]),
        ("run", [1]),
        ("run", [2]),
        ("run", [3, 4]),
        ("run", [3]),
        ("run", [4]),
    ]
    assert work.halved == 3


def test_an_item_that_does_not_fit_alone_is_named_and_others_survive(started):
    work, engine = started(budget=100)
    engine.gate.clear()
    blocker = work.submit(sequences(9))
    until(lambda: engine.events)
    bad, good = work.submit(sequences(1, 2), offset=100), work.submit(sequences(3))
    for what in ("launch", "run", "wait"):
        engine.faults[what, 2] = EngineMemoryError(None, 10, "too much")
    engine.gate.set()
    with pytest.raises(EngineMemoryError, match="input 101 with 10 tokens does not fit"):
        bad.result(5)
    assert good.result(5).tolist() == rows_of(3)
    assert blocker.result(5).tolist() == rows_of(9)


@pytest.mark.parametrize("what", ["launch", "wait"])
def test_an_input_that_the_engine_refuses_is_named_and_others_survive(started, what):
    work, engine = started(budget=100)
    engine.gate.clear()
    blocker = work.submit(sequences(9))
    until(lambda: engine.events)
    good, bad = work.submit(sequences(1)), work.submit(sequences(2, 3), offset=100)
    engine.faults[what, 3] = InputTooLongError(2, 50, 40)
    engine.gate.set()
    with pytest.raises(InputTooLongError, match="input 101: the text has 50 tokens"):
        bad.result(5)
    assert good.result(5).tolist() == rows_of(1)
    assert blocker.result(5).tolist() == rows_of(9)


@pytest.mark.parametrize("what", ["launch", "wait"])
def test_a_batch_that_breaks_fails_its_callers_only(started, what):
    work, engine = started()
    engine.gate.clear()
    first = work.submit(sequences(1))
    until(lambda: engine.events)
    engine.faults[what, 2] = OSError("the device fell off")
    broken, last = work.submit(sequences(2)), work.submit(sequences(3))
    engine.gate.set()
    with pytest.raises(EngineError, match="the test engine failed: OSError: the device fell off"):
        broken.result(5)
    assert first.result(5).tolist() == rows_of(1)
    assert last.result(5).tolist() == rows_of(3)


def test_a_job_with_two_failing_batches_in_flight_fails_once(started):
    work, engine = started()
    engine.faults["wait", 1] = OSError("first")
    engine.faults["wait", 2] = EngineMemoryError(None, 10, "second")
    with pytest.raises(EngineError, match="OSError: first"):
        work.submit(sequences(1, 2, 3)).result(5)
    assert work.submit(sequences(4)).result(5).tolist() == rows_of(4)
    assert ("launch", [3]) not in engine.events


def test_a_non_finite_row_is_recomputed_behind_what_is_in_flight(started):
    work, engine = started()
    assert work.submit(sequences(888, 2)).result(5).tolist() == rows_of(888, 2)
    assert engine.events == [
        ("launch", [888]),
        ("launch", [2]),
        ("wait", [888]),
        ("precise", [888]),
        ("wait", [2]),
    ]
    assert work.recomputed == 1


def test_a_row_that_cannot_be_recomputed_is_named(started):
    work, engine = started()
    engine.faults["precise", 888] = NonFiniteError(0, "and this engine knows float16 only")
    with pytest.raises(NonFiniteError, match=r"input 11: .* knows float16 only"):
        work.submit(sequences(1, 888), offset=10).result(5)


def test_rows_of_a_wrong_shape_are_an_error(started, monkeypatch):
    work, engine = started()
    with monkeypatch.context() as broken:
        broken.setattr(engine, "launch", lambda batch: lambda: np.zeros((3, 2), np.float32))
        with pytest.raises(EngineError, match=r"shape \(3, 2\) for 1 inputs"):
            work.submit(sequences(1)).result(5)
    assert work.submit(sequences(4)).result(5).tolist() == rows_of(4)


def test_a_job_cancelled_in_flight_leaves_the_worker_idle(started):
    work, engine = started()
    engine.gate.clear()
    future = work.submit(sequences(1, 2, 3))
    until(lambda: ("launch", [2]) in engine.events)  # the worker now waits for the first
    assert future.cancel()
    engine.gate.set()
    assert work.submit(sequences(4)).result(5).tolist() == rows_of(4)
    assert engine.in_flight == 0
    assert [numbers for what, numbers in engine.events if what == "launch"] == [[1], [2], [4]]


def test_closing_finishes_what_is_in_flight(started):
    work, engine = started()
    engine.gate.clear()
    future = work.submit(sequences(*range(6)))
    until(lambda: ("launch", [1]) in engine.events)
    closing = threading.Thread(target=work.close)
    closing.start()
    until(lambda: work._queue.closing)
    engine.gate.set()
    closing.join(5)
    assert future.result(0).tolist() == rows_of(*range(6))
    assert engine.events[-2:] == [("wait", [5]), ("close", [])]
    with pytest.raises(ClosedError):
        work.submit(sequences(7))


def test_nobody_waits_for_a_thread_that_has_ended(started):
    work, engine = started()
    engine.faults["launch", 2] = SystemExit(3)
    with pytest.raises(EngineError, match="the test engine failed: SystemExit: 3"):
        work.submit(sequences(1, 2)).result(5)
    with pytest.raises(ClosedError):
        work.submit(sequences(3))


def test_many_threads_get_their_own_rows(started):
    work, _ = started(budget=64)
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


def test_the_first_part_of_a_job_is_computed_while_the_next_is_encoded(started):
    work, engine = started()

    def parts():
        yield sequences(1, 2)
        until(lambda: ("wait", [1]) in engine.events)
        yield sequences(3)

    assert work.submit_parts(parts(), 3).result(5).tolist() == rows_of(1, 2, 3)
    assert [numbers for what, numbers in engine.events if what == "launch"] == [[1], [2], [3]]


def test_equal_sequences_of_several_parts_are_computed_once(started):
    work, engine = started()
    parts = [sequences(1, 2, 1), sequences(2, 3), sequences(3, 1)]
    found = work.submit_parts(parts, 7).result(5)
    assert found.tolist() == rows_of(1, 2, 1, 2, 3, 3, 1)
    assert sorted(numbers for what, numbers in engine.events if what == "wait") == [[1], [2], [3]]


def test_a_part_that_cannot_be_encoded_ends_the_job(started):
    work, engine = started()
    engine.gate.clear()

    def parts():
        yield sequences(1, 2, 3)
        until(lambda: engine.events)
        raise InputTooLongError(3, 9, 8)

    with pytest.raises(InputTooLongError):
        work.submit_parts(parts(), 4)
    engine.gate.set()
    assert work.submit(sequences(7)).result(5).tolist() == rows_of(7)
    assert ("launch", [3]) not in engine.events


def test_parts_that_are_not_complete_do_not_hang(started):
    work, _ = started()
    for parts in ([], [sequences(1)]):
        with pytest.raises(ValueError, match="inputs, expected 2"):
            work.submit_parts(parts, 2)


def test_an_engine_that_fails_between_parts_fails_the_job(started):
    work, engine = started()
    engine.faults["wait", 1] = RuntimeError("device lost")

    def parts():
        yield sequences(1)
        until(lambda: ("wait", [1]) in engine.events)
        time.sleep(0.05)
        yield sequences(2)

    with pytest.raises(EngineError, match="device lost"):
        work.submit_parts(parts(), 2).result(5)


def test_closing_between_parts_is_said(started):
    work, _ = started()

    def parts():
        yield sequences(1)
        work.close()
        yield sequences(2)

    with pytest.raises(ClosedError, match="during the call"):
        work.submit_parts(parts(), 2)

"""The worker with an engine whose rows say which sequence they belong to."""

import threading
from concurrent.futures import CancelledError

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
from quernstone.types import Encoded, EngineInfo, TextInput


class NumberEngine:
    """A sequence's row is its first token id and its length."""

    width = 2

    def __init__(self, budget=100, capacity=10**9):
        self.info = EngineInfo(
            engine="test", device="cpu", dtype="float32", attention="none", max_batch_tokens=budget
        )
        self.capacity = capacity
        self.batches = []
        self.precise = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = False

    def run(self, batch, *, precise=False):
        self.entered.set()
        self.gate.wait(10)
        numbers = [int(sequence.ids[0]) for sequence in batch]
        tokens = sum(map(len, batch))
        if precise:
            self.precise += numbers
        else:
            self.batches.append(numbers)
        if tokens > self.capacity:
            raise EngineMemoryError(None, tokens, "too much")
        if 666 in numbers:
            raise OSError("the engine broke")
        if 777 in numbers:
            raise InputTooLongError(numbers.index(777), 50, 40)
        rows = np.array([[n, len(s)] for n, s in zip(numbers, batch, strict=True)], np.float32)
        for row in rows:
            if row[0] == 999 or (row[0] == 888 and not precise):
                row[1] = np.nan
        return rows

    def close(self):
        self.closed = True


def sequences(*specs):
    return [Encoded(np.full(length, number, dtype=np.int32)) for number, length in specs]


@pytest.fixture
def started():
    workers = []

    def start(**settings):
        engine = NumberEngine(**settings)
        workers.append(Worker(lambda: engine))
        return workers[-1], engine

    yield start
    for each in workers:
        each.close()


def test_equal_sequences_are_computed_once(started):
    worker, engine = started()
    rows = worker.submit(sequences((1, 3), (2, 5), (1, 3), (1, 4), (2, 5))).result(10)
    assert rows.tolist() == [[1, 3], [2, 5], [1, 3], [1, 4], [2, 5]]
    assert engine.batches == [[2, 1, 1]]
    texts = [TextInput("a"), TextInput("a", "task"), TextInput("a", "task", "query")]
    assert len({one.key for one in [*texts, *texts, *sequences((1, 3), (1, 3))]}) == 4


def test_an_error_names_the_first_of_equal_sequences(started):
    worker, _ = started()
    with pytest.raises(NonFiniteError) as caught:
        worker.submit(sequences((1, 3), (999, 5), (999, 5)), 10).result(10)
    assert caught.value.index == 11


def test_rows_come_back_in_input_order(started):
    work, engine = started(budget=10)
    rows = work.submit(sequences((1, 2), (2, 9), (3, 5), (4, 4))).result(5)
    assert rows.tolist() == [[1, 2], [2, 9], [3, 5], [4, 4]]
    assert engine.batches == [[2], [3, 4], [1]]


def test_no_sequences_give_no_rows(started):
    work, engine = started()
    assert work.submit([]).result(5).shape == (0, 2)
    assert engine.batches == []


def test_waiting_callers_share_a_batch(started):
    work, engine = started(budget=1000)
    engine.gate.clear()
    first = work.submit(sequences((0, 1)))
    assert engine.entered.wait(10)
    others = [work.submit(sequences((n, 1))) for n in range(1, 64)]
    engine.gate.set()
    assert [f.result(5)[0, 0] for f in [first, *others]] == list(range(64))
    assert [len(batch) for batch in engine.batches] == [1, 63]


def test_large_jobs_take_turns(started):
    work, engine = started(budget=20)
    engine.gate.clear()
    first = work.submit(sequences((0, 1)))
    assert engine.entered.wait(10)
    large = [work.submit(sequences(*[(n * 10 + i, 10) for i in range(6)])) for n in (1, 2)]
    engine.gate.set()
    for future in [first, *large]:
        future.result(5)
    assert engine.batches[1:] == [[10, 11], [20, 21], [12, 13], [22, 23], [14, 15], [24, 25]]


def test_out_of_memory_halves_the_batch_and_loses_nothing(started):
    work, engine = started(budget=80, capacity=25)
    rows = work.submit(sequences(*((n, 10) for n in range(8)))).result(5)
    assert rows[:, 0].tolist() == list(range(8))
    assert sorted(map(len, engine.batches), reverse=True) == [8, 4, 4, 2, 2, 2, 2]


def test_an_item_that_does_not_fit_alone_is_named_and_others_survive(started):
    work, engine = started(budget=1000, capacity=25)
    engine.gate.clear()
    blocker = work.submit(sequences((5, 1)))
    good = work.submit(sequences((1, 10), (2, 10)))
    bad = work.submit(sequences((3, 10), (4, 30)), offset=100)
    engine.gate.set()
    with pytest.raises(EngineMemoryError, match="input 101 with 30 tokens does not fit"):
        bad.result(5)
    assert good.result(5)[:, 0].tolist() == [1, 2]
    assert blocker.result(5)[:, 0].tolist() == [5]


def test_a_non_finite_row_is_recomputed_in_float32(started):
    work, engine = started()
    rows = work.submit(sequences((1, 1), (888, 3), (2, 1))).result(5)
    assert rows.tolist() == [[1, 1], [888, 3], [2, 1]]
    assert engine.precise == [888]


def test_a_row_that_stays_non_finite_is_an_error_naming_it(started):
    work, engine = started()
    with pytest.raises(NonFiniteError, match="input 12: the model's output is not finite"):
        work.submit(sequences((1, 1), (2, 1), (999, 1)), offset=10).result(5)
    assert engine.precise == [999]


def test_an_engine_says_why_it_cannot_recompute(started, monkeypatch):
    work, engine = started()
    run = engine.run

    def imprecise(batch, *, precise=False):
        if precise:
            raise NonFiniteError(0, "and this engine knows float16 only")
        return run(batch)

    monkeypatch.setattr(engine, "run", imprecise)
    with pytest.raises(NonFiniteError, match=r"input 11: .* knows float16 only"):
        work.submit(sequences((1, 1), (999, 1), (999, 1)), offset=10).result(5)
    assert work.submit(sequences((3, 1))).result(5).tolist() == [[3, 1]]


def test_an_engine_that_breaks_tells_its_callers_and_goes_on(started):
    work, _ = started()
    with pytest.raises(EngineError, match="the test engine failed: OSError: the engine broke") as e:
        work.submit(sequences((666, 1))).result(5)
    assert isinstance(e.value.__cause__, OSError)
    assert work.submit(sequences((1, 1))).result(5).tolist() == [[1, 1]]


def test_an_engine_that_gives_too_few_rows_is_told(started, monkeypatch):
    work, engine = started()
    with monkeypatch.context() as broken:
        broken.setattr(engine, "run", lambda batch: np.zeros((1, 2), np.float32))
        with pytest.raises(EngineError, match=r"shape \(1, 2\) for 3 inputs, expected \(3, 2\)"):
            work.submit(sequences((1, 1), (2, 1), (3, 1))).result(5)
    assert work.submit(sequences((4, 1))).result(5).tolist() == [[4, 1]]


def test_nobody_waits_for_a_thread_that_has_ended(started):
    work, engine = started()

    def leave(batch):
        raise SystemExit(3)

    engine.run = leave
    with pytest.raises(EngineError, match="the test engine failed: SystemExit: 3"):
        work.submit(sequences((1, 1))).result(5)
    with pytest.raises(ClosedError):
        work.submit(sequences((2, 1)))
    work.close()
    assert engine.closed


def test_an_input_that_the_engine_refuses_is_named_and_others_survive(started):
    work, engine = started(budget=1000)
    engine.gate.clear()
    blocker = work.submit(sequences((5, 1)))
    good = work.submit(sequences((1, 3), (2, 2)))
    bad = work.submit(sequences((3, 4), (4, 3), (777, 1)), offset=100)
    engine.gate.set()
    with pytest.raises(InputTooLongError, match="input 102: the text has 50 tokens") as caught:
        bad.result(5)
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (102, 50, 40)
    assert good.result(5)[:, 0].tolist() == [1, 2]
    assert blocker.result(5)[:, 0].tolist() == [5]


def test_texts_are_planned_by_their_size():
    class TextEngine(NumberEngine):
        def run(self, batch, *, precise=False):
            self.batches.append([each.text for each in batch])
            return np.array([[len(each.text), len(each)] for each in batch], np.float32)

    engine = TextEngine(budget=10)
    work = Worker(lambda: engine)
    texts = ["a" * 20, "b", "c" * 36, "日本語" * 3]
    rows = work.submit([TextInput(text) for text in texts]).result(5)
    assert rows.tolist() == [[20, 6], [1, 1], [36, 10], [9, 7]]
    assert engine.batches == [[texts[2]], [texts[3]], [texts[0], texts[1]]]
    work.close()


def test_a_cancelled_job_stops_between_batches(started):
    work, engine = started(budget=1)
    engine.gate.clear()
    long = work.submit(sequences(*((n, 1) for n in range(50))))
    assert long.cancel()
    engine.gate.set()
    assert work.submit(sequences((70, 1))).result(5).tolist() == [[70, 1]]
    with pytest.raises(CancelledError):
        long.result(5)
    assert len(engine.batches) <= 3


def test_many_threads_get_their_own_rows(started):
    work, _ = started(budget=64)
    failures = []

    def call(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            specs = [(int(n), int(n) % 30 + 1) for n in random.integers(0, 600, 9)]
            rows = work.submit(sequences(*specs)).result(20)
            if rows.tolist() != [list(spec) for spec in specs]:
                failures.append((seed, specs, rows))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_closing_finishes_what_was_submitted(started):
    work, engine = started(budget=1)
    future = work.submit(sequences(*((n, 1) for n in range(20))))
    work.close()
    assert future.result(0)[:, 0].tolist() == list(range(20))
    assert engine.closed
    with pytest.raises(ClosedError):
        work.submit(sequences((1, 1)))


def test_an_engine_that_does_not_load_raises_where_it_was_asked_for():
    def load():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        Worker(load)

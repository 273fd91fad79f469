"""The thread that owns an engine, and the batches that concurrent callers share.

Callers submit jobs and get futures. Between two batches the worker takes the next one from all
waiting jobs (`batching.take_batch`). If the device computes on its own, the worker launches the
next batch before it waits for the rows of the last one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast
from weakref import WeakSet

import numpy as np

from quernstone.batching import take_batch
from quernstone.errors import (
    ClosedError,
    EngineError,
    EngineMemoryError,
    InputError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.runtime.jobs import (
    BatchStart,
    Items,
    Job,
    by_job,
    sequences_of,
    start_of,
    without_done,
)
from quernstone.runtime.preparation import Preparation
from quernstone.types import (
    Engine,
    EngineInfo,
    Float32Array,
    Input,
    LaunchingEngine,
    Pending,
    Usage,
)

# Seconds that a fork waits for the end of a batch, or of loading.
_FORK_PATIENCE = 60.0

_workers: WeakSet[Worker] = WeakSet()


Launched = tuple[Items, Pending]
"""A batch that the device is computing."""


class Worker:
    """Runs the jobs of any number of threads and event loops on one engine, also after a fork."""

    def __init__(self, load: Callable[[], Engine[Any]]) -> None:
        """Load the engine on the worker's own thread, and wait for it or raise its error."""
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._closing = self._busy = False
        self._forks = 0  # threads that are about to fork
        self._thread: threading.Thread | None = None
        _workers.add(self)
        engine = self._start(load).result()
        self.width: int = engine.width
        self.recomputed = 0
        """Rows that overflowed the engine's dtype and were computed again in float32."""
        self.halved = 0
        """Batches that did not fit into memory."""
        self.on_batch: Callable[[BatchStart], None] | None = None
        """Called on the worker's thread for each batch."""

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """Queue inputs. See `Backend.submit`."""
        job = Job(inputs, offset, np.empty((len(inputs), self.width), dtype=np.float32))
        if not inputs:
            job.future.set_result(job.rows)
            return job.future
        with self._changed:
            if self._closing:
                raise ClosedError("the model was closed; create a new embedder or reranker")
            if self._thread is None:  # in a forked child
                if self.is_lost:
                    why = "was busy" if self._busy else f"runs on {self.info.device!r}"
                    raise EngineError(
                        f"the model was loaded before this process was forked, and its engine, "
                        f"{self.info.engine}, {why}: load the model after the fork, or start "
                        "processes with the method `spawn`"
                    )
                self._start(lambda: self._engine)
            self._arrived.append(job)
            self._changed.notify_all()
        return job.future

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self._engine.info

    @property
    def counts(self) -> Usage:
        """See `Backend.counts`."""
        return Usage(recomputed=self.recomputed)

    def set_budget(self, max_batch_tokens: int) -> None:
        """Change the budget of later batches, to try several with one loaded model."""
        self._engine.info = replace(self.info, max_batch_tokens=max_batch_tokens)

    def close(self) -> None:
        """Finish what was submitted, free the engine, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            if not self.is_lost:
                self._engine.close()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def is_lost(self) -> bool:
        """True in a forked child that cannot use the engine of its parent."""
        usable = getattr(self._engine, "survives_fork", False) and self.info.device == "cpu"
        return self._thread is None and (self._busy or not usable)

    def before_fork(self) -> None:
        """Wait until the engine is at rest, when its libraries hold no locks."""
        with self._changed:
            self._forks += 1
            if self._thread not in (None, threading.current_thread()):
                self._changed.wait_for(lambda: not self._busy, _FORK_PATIENCE)

    def after_fork(self) -> None:
        """Continue in the parent."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def in_child(self) -> None:
        """Forget the jobs, which the parent computes, and the thread."""
        self._changed = threading.Condition()
        self._arrived, self._thread, self._forks = [], None, 0

    def _start(self, load: Callable[[], Engine[Any]]) -> Future[Engine[Any]]:
        loaded: Future[Engine[Any]] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(load, loaded), name="quernstone-worker", daemon=True
        )
        self._thread.start()
        return loaded

    def _main(self, load: Callable[[], Engine[Any]], loaded: Future[Engine[Any]]) -> None:
        try:
            with self._working():
                self._engine = engine = load()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that called Worker()
            loaded.set_exception(error)
            return
        loaded.set_result(engine)
        waiting: list[Job] = []
        launched: Launched | None = None
        preparation = Preparation(engine)
        try:
            while self._collect(waiting, launched, preparation):
                if preparation.is_due(idle=not (waiting or launched)):
                    with self._working():
                        preparation.do_step()
                    continue
                with self._working():
                    launched = self._run_next(engine, waiting, launched)
                waiting[:] = [job for job in waiting if job.left and not job.future.done()]
        except BaseException as error:  # noqa: BLE001 - passed to the callers, who wait for it
            self._abort(waiting, _engine_error(error, engine.info.engine))
        finally:
            engine.close()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Wait for forks that are about to happen, and make others wait for the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _abort(self, waiting: list[Job], error: QuernstoneError) -> None:
        """Fail all jobs because the thread ends, and accept no more."""
        with self._changed:
            self._closing = True
            jobs = [*waiting, *self._arrived]
            self._arrived.clear()
        for job in jobs:
            job.fail(error)

    def _collect(
        self, waiting: list[Job], launched: Launched | None, preparation: Preparation
    ) -> bool:
        """Add the jobs that arrived, waiting for one if there is nothing to do."""
        with self._changed:
            busy = waiting or launched or preparation.pending
            while not (self._arrived or busy or self._closing):
                self._changed.wait()
            waiting += self._arrived
            self._arrived.clear()
            return bool(waiting or launched) or not self._closing

    def _run_next(
        self, engine: Engine[Any], waiting: list[Job], launched: Launched | None
    ) -> Launched | None:
        """Run the next batch, or launch it, finish the one launched before, and return it."""
        queues = [job.queue for job in waiting]
        taken = take_batch(queues, max_batch_tokens=engine.info.max_batch_tokens)
        items = without_done([(waiting[job], place) for job, place in taken])
        served = {job for job, _ in items}
        if self.on_batch is not None and items:
            self.on_batch(start_of(items))
        # Round-robin: a job in this batch waits until the others have had their turn.
        waiting.sort(key=lambda job: job in served)
        if not getattr(engine, "overlaps", False):
            self._run(engine, items)
            return None
        launch = cast("LaunchingEngine[Any]", engine).launch
        following: Launched | None = None
        failure: Exception | None = None
        if items:
            try:
                following = (items, launch(sequences_of(items)))
            except Exception as error:  # noqa: BLE001 - handled after the batch launched before
                failure = error
        if launched is not None:
            self._finish(engine, *launched)
        if failure is not None:
            self._handle(engine, items, failure)
        return following

    def _run(self, engine: Engine[Any], items: Items) -> None:
        """Run items as one batch, and wait for it."""
        items = without_done(items)
        if items:
            self._finish(engine, items, partial(engine.run, sequences_of(items)))

    def _finish(self, engine: Engine[Any], items: Items, wait: Pending) -> None:
        """Wait for the rows of a batch and deliver them."""
        try:
            rows = wait()
            if rows.shape != (len(items), engine.width):
                raise EngineError(
                    f"the {engine.info.engine} engine gave an array of shape {rows.shape} for "
                    f"{len(items)} inputs, expected ({len(items)}, {engine.width})"
                )
            bad = self._recompute_non_finite(engine, items, rows)
        except Exception as error:  # noqa: BLE001 - passed to the callers; the worker must survive
            self._handle(engine, items, error)
            return
        for job, numbers in by_job(items).items():
            if job.future.done():
                continue
            wrong = [items[number][1] for number in numbers if number in bad]
            if wrong:
                job.fail(NonFiniteError(job.offset + wrong[0]))
            else:
                of_job = rows if len(numbers) == len(rows) else rows[numbers]
                job.deliver([items[number][1] for number in numbers], of_job)

    def _handle(self, engine: Engine[Any], items: Items, error: Exception) -> None:
        """Run the items of a failed batch again where that can help; otherwise fail their jobs."""
        match error:
            case EngineMemoryError():
                self.halved += 1
                if len(items) > 1:
                    middle = len(items) // 2
                    self._run(engine, items[:middle])
                    self._run(engine, items[middle:])
                    return
                job, place = items[0]
                tokens = len(job.sequences[place])
                too_large = EngineMemoryError(job.offset + place, tokens, error.detail)
                too_large.__cause__ = error
                job.fail(too_large)
            case InputError():
                job, place = items[error.index]
                fault = error.at(job.offset + place)
                fault.__cause__ = error
                job.fail(fault)
                self._run(engine, items)  # without those of the failed job
            case _:
                for job in by_job(items):
                    job.fail(_engine_error(error, engine.info.engine))

    def _recompute_non_finite(
        self, engine: Engine[Any], items: Items, rows: Float32Array
    ) -> set[int]:
        """Replace rows that overflowed the engine's dtype by rows computed in float32.

        Returns the numbers of the rows that still are not finite.
        """
        bad = _non_finite(rows)
        for number in bad:  # one by one: they are rare, and float32 needs twice the memory
            job, place = items[number]
            if job.future.done():
                continue
            try:
                rows[number] = engine.run([job.sequences[place]], precise=True)[0]
            except NonFiniteError as error:  # the engine says why it cannot
                job.fail(NonFiniteError(job.offset + place, error.detail))
        self.recomputed += len(bad)
        return set(_non_finite(rows)) if bad else set()


def _non_finite(rows: Float32Array) -> list[int]:
    """Return the numbers of the rows that hold NaN or infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):  # no other sum of such numbers is finite, and it needs no copy
            return []
    numbers: list[int] = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
    return numbers


def _engine_error(error: BaseException, engine: str) -> QuernstoneError:
    """Wrap an error of a library, so that callers get one type with the origin as its cause."""
    if isinstance(error, QuernstoneError):
        return error
    wrapped = EngineError(f"the {engine} engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _for_all(hook: Callable[[Worker], None]) -> None:
    for worker in list(_workers):
        hook(worker)


def _in_child() -> None:
    _for_all(Worker.in_child)
    if "TOKENIZERS_PARALLELISM" in os.environ:
        # Older versions of `tokenizers` wait for threads that only the parent has, unless the
        # variable is not set.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=partial(_for_all, Worker.before_fork),
        after_in_parent=partial(_for_all, Worker.after_fork),
        after_in_child=_in_child,
    )

"""The thread that owns an engine.

Between two batches it takes the next one from all jobs of the worker. If the device computes on its
own, the thread launches the next batch before it waits for the rows of the last one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

import numpy as np

from quernstone.errors import (
    EngineError,
    EngineMemoryError,
    InputError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.runtime.jobs import Items, by_job, sequences_of, without_done
from quernstone.runtime.preparation import Preparation
from quernstone.runtime.queue import JobQueue
from quernstone.types import Engine, Float32Array, LaunchingEngine, Pending

logger = logging.getLogger("quernstone")

Launched = tuple[Items, Pending]
"""A batch that the device is computing."""


class Runner:
    """Runs the batches of a queue on one engine."""

    def __init__(self, queue: JobQueue, on_batch: Callable[[Items], None]) -> None:
        """Prepare, without a thread.

        Args:
            queue: Shared by all engines of the worker.
            on_batch: Called on this thread when a batch begins.
        """
        self._queue, self._on_batch = queue, on_batch
        self.engine: Engine[Any]
        """Set when it is loaded."""
        self.thread: threading.Thread | None = None
        """None in a forked child until it is started again."""
        self.broken = False
        """True if the engine failed where another engine took over."""
        self.recomputed = 0
        """Rows that overflowed the engine's dtype and were computed again in float32."""
        self.halved = 0
        """Batches that did not fit into memory."""

    def start(self, load: Callable[[], Engine[Any]]) -> Future[None]:
        """Load the engine on a new thread, and run batches until the queue is closed."""
        self._queue.join()
        loaded: Future[None] = Future()
        self.thread = threading.Thread(
            target=self._main, args=(load, loaded), name="quernstone-worker", daemon=True
        )
        self.thread.start()
        return loaded

    @property
    def survives_fork(self) -> bool:
        """True if a forked child can run the engine."""
        usable = getattr(self.engine, "survives_fork", False)
        return bool(usable) and self.engine.info.device == "cpu"

    def _main(self, load: Callable[[], Engine[Any]], loaded: Future[None]) -> None:
        queue = self._queue
        try:
            with queue.working():
                self.engine = engine = load()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that called Worker()
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        launched: Launched | None = None
        preparation = Preparation(engine)
        try:
            while launched or not self.broken:
                if not queue.wait(launched=launched is not None, pending=preparation.pending):
                    break
                if preparation.is_due(idle=not (launched or queue.has_inputs)):
                    with queue.working():
                        preparation.do_step()
                    continue
                with queue.working():
                    launched = self._run_next(launched)
                queue.drop_done()
        except BaseException as error:  # noqa: BLE001 - passed to the callers, who wait for it
            queue.abort(_engine_error(error, engine.info.engine))
        finally:
            self._close()

    def _close(self) -> None:
        if not self.broken:
            self.engine.close()
            return
        self._queue.left()
        try:
            self.engine.close()
        except Exception as error:  # noqa: BLE001 - as before, and others have taken over
            logger.warning("memory of %s may not be free: %s", self.engine.info.device, error)

    def _run_next(self, launched: Launched | None) -> Launched | None:
        """Run the next batch, or launch it and return it, after finishing the launched one."""
        engine = self.engine
        items = [] if self.broken else self._queue.take(engine.info.max_batch_tokens)
        if items:
            self._on_batch(items)
        if not getattr(engine, "overlaps", False):
            self._run(items)
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
            self._finish(*launched)
        if failure is not None:
            self._handle(items, failure)
        return following

    def _run(self, items: Items) -> None:
        """Run items as one batch, and wait for it."""
        items = without_done(items)
        if items:
            self._finish(items, partial(self.engine.run, sequences_of(items)))

    def _finish(self, items: Items, wait: Pending) -> None:
        """Wait for the rows of a batch and deliver them."""
        engine = self.engine
        try:
            rows = wait()
            if rows.shape != (len(items), engine.width):
                raise EngineError(
                    f"the {engine.info.engine} engine returned an array of shape {rows.shape} for "
                    f"{len(items)} inputs, expected ({len(items)}, {engine.width})"
                )
            bad = self._recompute_non_finite(items, rows)
        except Exception as error:  # noqa: BLE001 - passed to the callers; the worker must survive
            self._handle(items, error)
            return
        for job, numbers in by_job(items).items():
            if job.future.done():
                continue
            wrong = [items[number][1] for number in numbers if number in bad]
            if wrong:
                job.fail(NonFiniteError(job.offset + wrong[0]))
            else:
                job.deliver([items[number][1] for number in numbers], _part(rows, numbers))
        if self._queue.known is None and self._queue.has_several_engines:
            self._queue.known = min(sequences_of(items), key=len)

    def _handle(self, items: Items, error: Exception) -> None:
        """Run the items of a failed batch again if that may succeed; otherwise fail their jobs."""
        match error:
            case EngineMemoryError():
                self.halved += 1
                if len(items) > 1:
                    middle = len(items) // 2
                    self._run(items[:middle])
                    self._run(items[middle:])
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
                self._run(items)  # without those of the failed job
            case _ if self._is_broken(error):
                self._queue.put_back(without_done(items))
            case _:
                for job in by_job(items):
                    job.fail(_engine_error(error, self.engine.info.engine))

    def _is_broken(self, error: Exception) -> bool:
        """Return True if this engine is broken and another one can take over.

        It is broken if it cannot compute an input that one of the engines has computed before.
        """
        known = self._queue.known
        if self.broken or known is None or not self._queue.has_several_engines:
            return self.broken
        try:
            self.engine.run([known])
        except Exception:  # noqa: BLE001 - libraries raise anything
            self.broken = self._queue.leave()
        if self.broken:
            device = self.engine.info.device
            logger.error("%s failed and is no longer used: %s", device, error, exc_info=error)
        return self.broken

    def _recompute_non_finite(self, items: Items, rows: Float32Array) -> set[int]:
        """Replace rows that overflowed the engine's dtype by rows computed in float32.

        Returns:
            The positions of the rows that are still not finite.
        """
        bad = _non_finite(rows)
        for number in bad:  # one by one: few rows overflow, and float32 needs twice the memory
            job, place = items[number]
            if job.future.done():
                continue
            try:
                rows[number] = self.engine.run([job.sequences[place]], precise=True)[0]
            except NonFiniteError as error:  # the engine says why it cannot
                job.fail(NonFiniteError(job.offset + place, error.detail))
        self.recomputed += len(bad)
        return set(_non_finite(rows)) if bad else set()


def _part(rows: Float32Array, numbers: list[int]) -> Float32Array:
    """Return some rows of a batch, in ascending order; neighbours without a copy.

    Copying releases the GIL, and with many callers this thread waits for milliseconds to get it
    back, for each of their jobs.
    """
    first, end = numbers[0], numbers[-1] + 1
    return rows[first:end] if end - first == len(numbers) else rows[numbers]


def _non_finite(rows: Float32Array) -> list[int]:
    """Return the positions of the rows that contain NaN or infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):  # then all numbers are finite; this check needs no copy
            return []
    numbers: list[int] = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
    return numbers


def _engine_error(error: BaseException, engine: str) -> QuernstoneError:
    """Wrap an error of a library in an `EngineError`, with the original as its cause."""
    if isinstance(error, QuernstoneError):
        return error
    wrapped = EngineError(f"the {engine} engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped

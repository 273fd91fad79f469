"""The one thread that owns an engine, and the batches that concurrent callers share.

Callers submit jobs and get futures. Between two batches the worker looks at all jobs that wait
and takes the next batch from all of them (`batching.take_batch`). Where the device computes by
itself, the next batch is taken and launched before the rows of the last one are waited for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from quernstone.batching import take_batch, work_order
from quernstone.errors import (
    ClosedError,
    EngineError,
    EngineMemoryError,
    InputError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.types import (
    Backend,
    Engine,
    EngineConfig,
    EngineInfo,
    Float32Array,
    Input,
    LaunchingEngine,
    Pending,
)


@dataclass(slots=True, eq=False)
class Job:
    """Sequences of one call, and the rows that come back for them.

    Equal sequences are computed once: what shares a batch changes the last bits of a result, and
    nobody expects the same text to rank above itself.
    """

    sequences: Sequence[Input]
    offset: int
    """Added to a position to give the index that an error names."""
    rows: Float32Array
    """Shape: (len(sequences), engine.width)"""
    future: Future[Float32Array] = field(default_factory=Future)
    firsts: list[int] = field(init=False)
    """For each sequence the position of the first one that equals it."""
    queue: deque[int] = field(init=False)
    left: int = field(init=False)

    def __post_init__(self) -> None:
        seen: dict[Hashable, int] = {}
        self.firsts = [seen.setdefault(s.key, place) for place, s in enumerate(self.sequences)]
        order = work_order(self.sequences)
        self.queue = deque(place for place in order if self.firsts[place] == place)
        self.left = len(seen)

    def finish(self) -> None:
        """Hand the rows over, unless the caller has cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(self.rows[self.firsts])

    def fail(self, error: Exception) -> None:
        """Hand an error over, unless the job is done: cancelled, or failed by another batch."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


Items = list[tuple[Job, int]]
"""What a batch consists of: jobs, and positions among their sequences."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that the device computes meanwhile."""

    items: Items
    wait: Pending


class Worker:
    """Runs the jobs of any number of threads and event loops on one engine.

    Whether that takes token ids or texts makes no difference here.
    """

    def __init__(self, load: Callable[[], Engine[Any]]) -> None:
        """Load the engine on the worker's own thread, and wait for it.

        Raises:
            QuernstoneError: Whatever `load` raises.
        """
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._closing = False
        loaded: Future[Engine[Any]] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(load, loaded), name="quernstone-worker", daemon=True
        )
        self._thread.start()
        self._engine = engine = loaded.result()
        self.info: EngineInfo = engine.info
        self.width: int = engine.width
        self.recomputed = 0
        """Rows that overflowed the engine's dtype and were computed again in float32."""
        self.halved = 0
        """Batches that did not fit into memory."""

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """Queue inputs. See `Backend.submit`.

        Raises:
            ClosedError: The worker was closed.
        """
        job = Job(inputs, offset, np.empty((len(inputs), self.width), dtype=np.float32))
        if not inputs:
            job.future.set_result(job.rows)
            return job.future
        with self._changed:
            if self._closing:
                raise ClosedError("the model was closed; make a new one")
            self._arrived.append(job)
            self._changed.notify()
        return job.future

    def set_budget(self, max_batch_tokens: int) -> None:
        """Plan the batches to come by another budget: to try several on one loaded model."""
        self.info = self._engine.info = replace(self.info, max_batch_tokens=max_batch_tokens)

    def close(self) -> None:
        """Finish what was submitted, free the engine, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _main(self, load: Callable[[], Engine[Any]], loaded: Future[Engine[Any]]) -> None:
        try:
            engine = load()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            loaded.set_exception(error)
            return
        loaded.set_result(engine)
        waiting: list[Job] = []
        launched: Launched | None = None
        try:
            while self._collect(waiting, launched):
                launched = self._run_next(engine, waiting, launched)
                waiting[:] = [job for job in waiting if job.left and not job.future.done()]
        except BaseException as error:  # noqa: BLE001 - the callers get it: nobody may wait for ever
            self._give_up(waiting, _engine_error(error, engine.info.engine))
        finally:
            engine.close()

    def _give_up(self, waiting: list[Job], error: QuernstoneError) -> None:
        """Tell all callers that the thread ends, and take no more of them."""
        with self._changed:
            self._closing = True
            jobs = [*waiting, *self._arrived]
            self._arrived.clear()
        for job in jobs:
            job.fail(error)

    def _collect(self, waiting: list[Job], launched: Launched | None) -> bool:
        """Add the jobs that arrived, waiting for one if there is nothing to do."""
        with self._changed:
            while not (self._arrived or waiting or launched or self._closing):
                self._changed.wait()
            waiting += self._arrived
            self._arrived.clear()
            return bool(waiting or launched) or not self._closing

    def _run_next(
        self, engine: Engine[Any], waiting: list[Job], launched: Launched | None
    ) -> Launched | None:
        """Run the next batch, or launch it and finish the one launched before.

        Returns:
            What is still computed.
        """
        taken = take_batch(
            [job.sequences for job in waiting],
            [job.queue for job in waiting],
            max_batch_tokens=engine.info.max_batch_tokens,
        )
        items = [(waiting[job], place) for job, place in taken]
        # those that gave something wait for the others to have their turn
        waiting.sort(key={job for job, _ in items}.__contains__)
        launch = _launcher(engine)
        if launch is None:
            self._run(engine, items)
            return None
        items = _wanted(items)
        following: Launched | None = None
        failed: Pending | None = None
        if items:
            try:
                following = Launched(items, launch(_sequences(items)))
            except Exception as error:  # noqa: BLE001 - raised again below, in its turn
                failed = partial(_raise, error)
        if launched is not None:
            self._finish(engine, launched.items, launched.wait)
        if failed is not None:
            self._finish(engine, items, failed)
        return following

    def _run(self, engine: Engine[Any], items: Items) -> None:
        """Run items as one batch, and wait for it."""
        items = _wanted(items)
        if items:
            self._finish(engine, items, partial(engine.run, _sequences(items)))

    def _finish(self, engine: Engine[Any], items: Items, wait: Pending) -> None:
        """Hand over the rows of a batch; on too little memory halve it, down to a single item."""
        try:
            rows = wait()
            if rows.shape != (len(items), engine.width):
                msg = (
                    f"the {engine.info.engine} engine gave an array of shape {rows.shape} for "
                    f"{len(items)} inputs, expected ({len(items)}, {engine.width})"
                )
                raise EngineError(msg)
            rows = self._recompute_non_finite(engine, items, rows)
        except EngineMemoryError as error:
            self.halved += 1
            if len(items) == 1:
                job, place = items[0]
                tokens = len(job.sequences[place])
                too_large = EngineMemoryError(job.offset + place, tokens, error.detail)
                too_large.__cause__ = error
                job.fail(too_large)
                return
            middle = len(items) // 2
            self._run(engine, items[:middle])
            self._run(engine, items[middle:])
            return
        except InputError as error:
            job, place = items[error.index]
            fault = error.at(job.offset + place)
            fault.__cause__ = error
            job.fail(fault)
            self._run(engine, items)  # the others: `items` of a failed job are left out
            return
        except Exception as error:  # noqa: BLE001 - the callers get it; the worker must live on
            for job in {job for job, _ in items}:
                job.fail(_engine_error(error, engine.info.engine))
            return
        for (job, place), row in zip(items, rows, strict=True):
            if job.future.done():
                continue
            if not np.isfinite(row).all():
                job.fail(NonFiniteError(job.offset + place))
                continue
            job.rows[place] = row
            job.left -= 1
            if not job.left:
                job.finish()

    def _recompute_non_finite(
        self, engine: Engine[Any], items: Items, rows: Float32Array
    ) -> Float32Array:
        """Rows that overflowed the engine's dtype, once more in float32."""
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        for place in bad:  # one by one: they are rare, and float32 needs twice the memory
            job, position = items[place]
            if job.future.done():
                continue
            try:
                rows[place] = engine.run([job.sequences[position]], precise=True)[0]
            except NonFiniteError as error:  # the engine says why it cannot
                job.fail(NonFiniteError(job.offset + position, error.detail))
        self.recomputed += len(bad)
        return rows


def _wanted(items: Items) -> Items:
    """Without those of jobs that failed or were cancelled meanwhile: they need no more rows."""
    return [(job, place) for job, place in items if not job.future.done()]


def _sequences(items: Items) -> list[Input]:
    return [job.sequences[place] for job, place in items]


def _launcher(engine: Engine[Any]) -> Callable[[Sequence[Input]], Pending] | None:
    """The `launch` of an engine that overlaps; None for all others."""
    if not getattr(engine, "overlaps", False):
        return None
    return cast("LaunchingEngine[Any]", engine).launch


def _raise(error: Exception) -> Float32Array:
    raise error


def _engine_error(error: BaseException, engine: str) -> QuernstoneError:
    """Libraries raise anything; callers get one type, with the origin as its cause."""
    if isinstance(error, QuernstoneError):
        return error
    wrapped = EngineError(f"the {engine} engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


# --------------------------------------------------------------- one backend per configuration


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    backend: Backend | None = None
    users: int = 0


_shared: dict[EngineConfig, _Shared] = {}
# Reentrant: an embedder may be collected, and so released, while this thread is in `acquire`.
_shared_lock = threading.RLock()


def acquire(config: EngineConfig, start: Callable[[], Backend]) -> Backend:
    """The process's backend for `config`, started if this is the first use.

    Every `acquire` needs one `release`; the last one closes the backend.
    """
    with _shared_lock:
        entry = _shared.setdefault(config, _Shared())
        entry.users += 1
    try:
        with entry.lock:
            if entry.backend is None:
                entry.backend = start()
            return entry.backend
    except BaseException:
        release(config)
        raise


def release(config: EngineConfig) -> None:
    """Give back one `acquire` of `config`."""
    with _shared_lock:
        entry = _shared[config]
        entry.users -= 1
        if entry.users:
            return
        del _shared[config]
    if entry.backend is not None:
        entry.backend.close()

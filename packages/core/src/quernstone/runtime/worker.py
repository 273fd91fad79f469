"""`Worker`: a loaded model with one queue of jobs, and one engine on each device.

Callers submit jobs and get futures. Each engine takes the next batch from all waiting jobs when it
is free (`runner.Runner`), so that faster devices compute a larger share.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np

from quernstone.errors import ConfigError, EngineError
from quernstone.runtime.jobs import BatchStart, Items, Job, start_of
from quernstone.runtime.queue import JobQueue
from quernstone.runtime.runner import Runner
from quernstone.types import Engine, EngineInfo, Float32Array, Input, Usage

_workers: WeakSet[Worker] = WeakSet()


class Worker:
    """Backend that runs the jobs of any number of threads and event loops, also after a fork."""

    def __init__(self, *loads: Callable[[], Engine[Any]]) -> None:
        """Load the engines, each on its own thread; if one fails, raise its error.

        They are loaded one after another, because loading compiles kernels and registers operators,
        which libraries do not support in several threads at once.

        Raises:
            ConfigError: The devices chose different dtypes.
        """
        self.on_batch: Callable[[BatchStart], None] | None = None
        """Function that is called before each batch, on the thread of its engine."""
        self._queue = JobQueue()
        self._runners: list[Runner] = []
        _workers.add(self)
        try:
            for load in loads:
                self._add(load)
            _check_alike([runner.engine.info for runner in self._runners])
        except BaseException:
            self.close()
            raise
        self.width: int = self._runners[0].engine.width

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """Queue inputs. See `Backend.submit`."""
        job = Job(inputs, offset, self._empty(len(inputs)))
        if inputs:
            self._add_job(job)
        else:
            job.future.set_result(job.rows)
        return job.future

    def submit_parts(
        self, parts: Iterable[Sequence[Input]], count: int, offset: int = 0
    ) -> Future[Float32Array]:
        """Queue inputs part by part, as one job that begins with the first part.

        Args:
            parts: `count` inputs in all. If the iterator raises an error, the job is cancelled.
            count: Number of inputs.
            offset: See `Backend.submit`.
        """
        job = Job([], offset, self._empty(count))
        self._add_job(job)
        try:
            for part in parts:
                self._queue.extend(job, part)
            if job.is_open and not job.future.done():
                raise ValueError(f"the parts have {len(job.sequences)} inputs, expected {count}")
        except BaseException:
            job.future.cancel()
            raise
        return job.future

    def _empty(self, rows: int) -> Float32Array:
        return np.empty((rows, self.width), dtype=np.float32)

    def _add_job(self, job: Job) -> None:
        with self._queue.changed:
            if self._is_stopped and not self._queue.closing:  # in a forked child
                if self.is_lost:
                    info = self.info
                    why = "was busy" if self._queue.busy else f"runs on {info.device!r}"
                    raise EngineError(
                        f"the model was loaded before this process was forked, and its engine "
                        f"({info.engine}) {why}: load the model after the fork, or start "
                        "processes with the method `spawn`"
                    )
                for runner in self._runners:
                    runner.start(partial(_loaded, runner.engine))
            self._queue.add(job)

    @property
    def info(self) -> EngineInfo:
        """Description of the engines that are in use; see `Engine`."""
        infos = [runner.engine.info for runner in self._runners if not runner.broken]
        return _joined(infos) if len(infos) > 1 else infos[0]

    @property
    def overlaps(self) -> bool:
        """True if the devices compute while this process does something else."""
        return all(getattr(runner.engine, "overlaps", False) for runner in self._runners)

    @property
    def engines(self) -> int:
        """Number of engines."""
        return len(self._runners)

    @property
    def recomputed(self) -> int:
        """Number of rows that overflowed the engine's dtype and were computed again in float32."""
        return sum(runner.recomputed for runner in self._runners)

    @property
    def halved(self) -> int:
        """Number of batches that did not fit into memory and were halved."""
        return sum(runner.halved for runner in self._runners)

    @property
    def counts(self) -> Usage:
        """See `Backend.counts`."""
        return Usage(recomputed=self.recomputed)

    def set_budget(self, max_batch_tokens: int) -> None:
        """Change the size of later batches, to try several sizes with one loaded model."""
        for runner in self._runners:
            engine = runner.engine
            engine.info = replace(engine.info, max_batch_tokens=max_batch_tokens)

    def close(self) -> None:
        """Finish the submitted jobs, free the engines, and end their threads."""
        self._queue.close()
        for runner in self._runners:
            if runner.thread is None:
                if not self.is_lost:
                    runner.engine.close()
            elif threading.current_thread() is not runner.thread:
                runner.thread.join()

    @property
    def is_lost(self) -> bool:
        """True in a forked child that cannot use the engines of its parent."""
        usable = all(runner.survives_fork for runner in self._runners)
        return self._is_stopped and bool(self._queue.busy or not usable)

    @property
    def _is_stopped(self) -> bool:
        return all(runner.thread is None for runner in self._runners)

    def before_fork(self) -> None:
        """Wait until the engines are at rest, when their libraries hold no locks."""
        current = threading.current_thread()
        own = any(runner.thread is current for runner in self._runners)
        self._queue.before_fork(wait=not (own or self._is_stopped))

    def after_fork(self) -> None:
        """Continue in the parent."""
        self._queue.after_fork()

    def in_child(self) -> None:
        """Forget the jobs, which the parent computes, and the threads."""
        self._queue.in_child()
        for runner in self._runners:
            runner.thread = None

    def _add(self, load: Callable[[], Engine[Any]]) -> None:
        runner = Runner(self._queue, self._begin)
        self._runners.append(runner)  # a fork waits until it is loaded
        try:
            runner.start(load).result()
        except BaseException:
            self._runners.remove(runner)
            raise

    def _begin(self, items: Items) -> None:
        if self.on_batch is not None:
            with self._queue.changed:
                start = start_of(items)
            self.on_batch(start)


def _loaded(engine: Engine[Any]) -> Engine[Any]:
    return engine


def _check_alike(infos: Sequence[EngineInfo]) -> None:
    """Raise a `ConfigError` if results would depend on the device that computes them."""
    if len({info.dtype for info in infos}) > 1:
        found = ", ".join(f"{info.device} in {info.dtype}" for info in infos)
        raise ConfigError(
            f'`dtype="auto"` differs between the devices ({found}): pass a dtype that all of them '
            'compute in, such as `dtype="float32"`'
        )


def _joined(infos: Sequence[EngineInfo]) -> EngineInfo:
    """Describe engines of several devices as one."""

    def each(name: str) -> str:
        values = [getattr(info, name) for info in infos]
        if len(set(values)) == 1:
            return str(values[0])
        return "; ".join(f"{info.device}: {getattr(info, name)}" for info in infos)

    return replace(
        infos[0],
        device=",".join(info.device for info in infos),
        max_batch_tokens=min(info.max_batch_tokens for info in infos),
        attention=each("attention"),
        attention_reason=each("attention_reason"),
        graphs=each("graphs"),
    )


def _for_all(hook: Callable[[Worker], None]) -> None:
    for worker in list(_workers):
        hook(worker)


_VARIABLE = "TOKENIZERS_PARALLELISM"
_REQUESTS_THREADS = {"true", "t", "on", "yes", "y", "1"}
_hidden: list[str] = []


def _before_fork() -> None:
    _for_all(Worker.before_fork)
    # If threads are requested explicitly, `tokenizers` waits in the child for those of the parent,
    # which the child lacks. By default it does without threads where the parent has used some.
    if os.environ.get(_VARIABLE, "").lower() in _REQUESTS_THREADS:
        _hidden.append(os.environ.pop(_VARIABLE))


def _in_parent() -> None:
    if _hidden:
        os.environ[_VARIABLE] = _hidden.pop()
    _for_all(Worker.after_fork)


def _in_child() -> None:
    _hidden.clear()
    _for_all(Worker.in_child)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)

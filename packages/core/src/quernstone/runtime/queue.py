"""The queue of a worker: jobs that wait for its engines, and the state that its threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quernstone.batching import take_batch
from quernstone.errors import ClosedError, QuernstoneError
from quernstone.runtime.jobs import Items, Job, by_job, without_done
from quernstone.types import Input

# Longest time that a fork waits for a batch, or for a model that is loading.
_FORK_PATIENCE = 60.0


class JobQueue:
    """Queue of all engines of a worker, each of which takes the next batch when it is free."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closing = False
        """True if no more jobs are accepted."""
        self.busy = 0
        """Number of engines that are loading or computing a batch."""
        self.known: Input | None = None
        """An input that one of several engines has computed. If an engine fails on it later, the
        engine is broken; if not, the failed batch is at fault."""
        self._jobs: list[Job] = []
        self._engines = self._leaving = 0
        self._forks = 0  # threads that are about to fork

    def add(self, job: Job) -> None:
        """Append a job.

        Raises:
            ClosedError: The queue is closing.
        """
        with self.changed:
            if self.closing:
                raise ClosedError("the model was closed; create a new embedder or reranker")
            self._jobs.append(job)
            self.changed.notify_all()

    def extend(self, job: Job, inputs: Sequence[Input]) -> None:
        """Add inputs to a job that is in the queue, unless it has failed; see `Job.extend`.

        Raises:
            ClosedError: The queue was closed before the job was complete.
        """
        with self.changed:
            if job.future.done():
                return
            if self.closing:
                raise ClosedError("the model was closed during the call")
            job.extend(inputs)
            self.changed.notify_all()

    def join(self) -> None:
        """Add an engine."""
        with self.changed:
            self._engines += 1

    def wait(self, *, launched: bool, pending: bool) -> bool:
        """Wait until an engine has something to do, and return False if its thread should end.

        Args:
            launched: The engine is computing a batch whose rows have to be fetched.
            pending: The engine has other work to do when it is idle.
        """
        with self.changed:
            while not (
                launched
                or pending
                or self.has_inputs
                or (self.closing and not self._leaving)  # a leaving engine may return its inputs
            ):
                self.changed.wait()
            if launched or self.has_inputs or not self.closing or self._leaving:
                return True
            self._engines -= 1
            return False

    @property
    def has_inputs(self) -> bool:
        """True if inputs wait to be computed."""
        return any(len(job.queue) and not job.future.done() for job in self._jobs)

    @property
    def has_several_engines(self) -> bool:
        """True if more than one engine takes batches."""
        return self._engines > 1

    def take(self, max_batch_tokens: int) -> Items:
        """Remove and return the inputs of the next batch; see `take_batch`."""
        with self.changed:
            jobs = self._jobs
            taken = take_batch([job.queue for job in jobs], max_batch_tokens=max_batch_tokens)
            items = without_done([(jobs[job], place) for job, place in taken])
            served = {job for job, _ in items}
            # Round-robin: a job in this batch waits until the others have had their turn.
            jobs.sort(key=lambda job: job in served)
            return items

    def put_back(self, items: Items) -> None:
        """Return inputs that were taken, for another engine."""
        with self.changed:
            for job, numbers in by_job(items).items():
                job.queue.put_back([items[number][1] for number in numbers])
            self.changed.notify_all()

    def drop_done(self) -> None:
        """Remove the jobs that are done."""
        with self.changed:
            self._jobs = [
                job for job in self._jobs if (job.left or job.is_open) and not job.future.done()
            ]

    def leave(self) -> bool:
        """Remove a broken engine, unless it is the last one; then return False.

        After putting its batches back, the engine must call `left`.
        """
        with self.changed:
            if not self.has_several_engines:
                return False
            self._engines -= 1
            self._leaving += 1
            return True

    def left(self) -> None:
        """Complete `leave`, after the engine has put its batches back."""
        with self.changed:
            self._leaving -= 1
            self.changed.notify_all()

    def close(self) -> None:
        """Accept no more jobs. The threads end when the jobs in the queue are done."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()

    def abort(self, error: QuernstoneError) -> None:
        """Fail all jobs with an error, and accept no more."""
        with self.changed:
            self.close()
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            job.fail(error)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Wait for forks that are about to happen, and let later forks wait for the block."""
        with self.changed:
            self.changed.wait_for(lambda: not self._forks)
            self.busy += 1
        try:
            yield
        finally:
            with self.changed:
                self.busy -= 1
                self.changed.notify_all()

    def before_fork(self, *, wait: bool) -> None:
        """Keep engines from starting batches; with `wait`, also wait until all of them are idle."""
        with self.changed:
            self._forks += 1
            if wait:
                self.changed.wait_for(lambda: not self.busy, _FORK_PATIENCE)

    def after_fork(self) -> None:
        """Let the engines of the parent continue."""
        with self.changed:
            self._forks -= 1
            self.changed.notify_all()

    def in_child(self) -> None:
        """Reset the queue in a forked child, which has none of the parent's jobs and threads."""
        self.changed = threading.Condition()
        self._jobs, self._engines, self._leaving, self._forks = [], 0, 0, 0

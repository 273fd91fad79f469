"""The jobs of a worker, and the batches that they share."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from quernstone.batching import Queue
from quernstone.types import Float32Array, Input


@dataclass(slots=True, eq=False)
class Job:
    """The sequences of one call, and the rows that were computed for them.

    Equal sequences are computed once. Otherwise they could get different rows, because the other
    sequences of a batch change the last bits of a result.
    """

    sequences: Sequence[Input]
    offset: int
    """Position of the first sequence in the caller's list, for the index in errors."""
    rows: Float32Array
    """Shape: (len(sequences), engine.width)"""
    future: Future[Float32Array] = field(default_factory=Future)
    queue: Queue = field(init=False)
    left: int = field(init=False)
    """Number of sequences whose rows are missing."""
    submitted: float = field(default_factory=time.monotonic)
    begun: bool = False
    """True once a batch contains one of its sequences."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def __post_init__(self) -> None:
        self.queue = Queue(self.sequences)
        self.left = len(self.queue)

    @property
    def is_open(self) -> bool:
        """True while sequences are missing, which `extend` has to append."""
        return len(self.sequences) < len(self.rows)

    def extend(self, sequences: Sequence[Input]) -> None:
        """Append sequences to a job that began without any.

        Call it with the lock of the worker's queue, from which engines take batches meanwhile.
        """
        new = self.queue.extend(sequences)
        with self._lock:
            self.sequences = [*self.sequences, *sequences]
            self.left += new
            is_done = not (self.left or self.is_open)
        if is_done and self._end():  # all of them were equal to computed ones
            self.future.set_result(self.queue.repeat(self.rows))

    def deliver(self, places: list[int], rows: Float32Array) -> None:
        """Store rows, and complete the future when they were the last ones missing."""
        if len(self.rows) == 1:
            self.rows = rows
        else:
            self.rows[places] = rows
        with self._lock:
            self.left -= len(places)
            is_done = not (self.left or self.is_open)
        if is_done and self._end():
            self.future.set_result(self.queue.repeat(self.rows))

    def fail(self, error: Exception) -> None:
        """Fail the job, unless it was cancelled or has failed already."""
        if self._end():
            self.future.set_exception(error)

    def _end(self) -> bool:
        """Return True for the one caller that sets the result."""
        with self._lock:
            if self._ended or self.future.done():
                return False
            self._ended = True
        return self.future.set_running_or_notify_cancel()


Items = list[tuple[Job, int]]
"""The contents of a batch: (job, position of the sequence in the job) pairs."""


@dataclass(frozen=True, slots=True)
class BatchStart:
    """Description of a batch that is about to run, for metrics."""

    inputs: int
    tokens: int
    """Number of tokens without shared prefixes; an estimate if the engine tokenizes."""
    waits: list[float]
    """For each job whose first batch this is, the seconds since it was submitted."""


def start_of(items: Items) -> BatchStart:
    """Describe a batch that is about to run, and mark its jobs as begun."""
    now = time.monotonic()
    new = {job for job, _ in items if not job.begun}
    for job in new:
        job.begun = True
    tokens = sum(len(job.sequences[place]) for job, place in items)
    return BatchStart(len(items), tokens, [now - job.submitted for job in new])


def by_job(items: Items) -> dict[Job, list[int]]:
    """Return, for each job, the positions of its items in a batch."""
    numbers: dict[Job, list[int]] = {}
    for number, (job, _) in enumerate(items):
        numbers.setdefault(job, []).append(number)
    return numbers


def without_done(items: Items) -> Items:
    """Drop the items of jobs that failed or were cancelled in the meantime."""
    done = {job for job in by_job(items) if job.future.done()}
    return [item for item in items if item[0] not in done] if done else items


def sequences_of(items: Items) -> list[Input]:
    """Return the sequences of a batch."""
    return [job.sequences[place] for job, place in items]

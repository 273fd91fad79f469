"""Jobs of a worker, and the batches that they share."""

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
    """Sequences of one call, and the rows computed for them.

    Equal sequences are computed once: the other sequences of a batch change the last bits of a
    result, and a text must not rank above a copy of itself.
    """

    sequences: Sequence[Input]
    offset: int
    """Added to a position to give the index that an error names."""
    rows: Float32Array
    """Shape: (len(sequences), engine.width)"""
    future: Future[Float32Array] = field(default_factory=Future)
    queue: Queue = field(init=False)
    left: int = field(init=False)
    """Sequences whose rows are missing."""
    submitted: float = field(default_factory=time.monotonic)
    begun: bool = False
    """True as soon as a batch has a sequence of it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def __post_init__(self) -> None:
        self.queue = Queue(self.sequences)
        self.left = len(self.queue)

    def deliver(self, places: list[int], rows: Float32Array) -> None:
        """Store rows, and complete the future when they were the last ones missing."""
        if len(self.rows) == 1:
            self.rows = rows
        else:
            self.rows[places] = rows
        with self._lock:
            self.left -= len(places)
        if not self.left and self._end():
            self.future.set_result(self.queue.repeat(self.rows))

    def fail(self, error: Exception) -> None:
        """Set an error, unless the job is done: cancelled, or failed by another batch."""
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
"""The contents of a batch: jobs, and positions among their sequences."""


@dataclass(frozen=True, slots=True)
class BatchStart:
    """A batch that begins, for metrics."""

    inputs: int
    tokens: int
    """Tokens, or an estimate if the engine tokenizes. Those of shared prefixes are not counted."""
    waits: list[float]
    """Seconds since submission of each job of which this is the first batch."""


def start_of(items: Items) -> BatchStart:
    """Describe a batch that begins, and mark its jobs as begun."""
    now = time.monotonic()
    new = {job for job, _ in items if not job.begun}
    for job in new:
        job.begun = True
    tokens = sum(len(job.sequences[place]) for job, place in items)
    return BatchStart(len(items), tokens, [now - job.submitted for job in new])


def by_job(items: Items) -> dict[Job, list[int]]:
    """Return the numbers of each job's items in a batch."""
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

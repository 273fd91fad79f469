"""The stages of a load, side by side: read and split, look up, embed, write.

One bound holds for all of it: a batch needs one of `IN_FLIGHT` places from before it is read until
it is confirmed. So memory does not grow with the number of records, and within the bound a slow
moment of one stage is hidden by the batches that wait in front of the others. At the start there
are as many places as the embedder is called at a time: how large the other batches should be is
known when the first of these is done.

    reader thread -> look up -> embedding threads -> write -> the calling thread counts
                        `--- threads for the target ---'

A server is used by `Target.writers` threads. An embedded client belongs to the thread that made it:
there the calling thread does the look-ups and the writes itself.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Literal, TypeAlias

from quernstone.errors import QuernstoneError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.errors import TargetError
from quernstone_qdrant.report import Depths

Stage: TypeAlias = Literal["look up", "embed", "write"]

EMBEDDING_CALLS = 3
"""Calls of the embedder at a time: one batch is computed while the next is tokenised, and those
that are computed together share their forward passes."""
IN_FLIGHT = 10
"""Batches between reading and counting: those in the embedder, as many again in front of it, and
those that are being written."""


@dataclass(slots=True, eq=False)
class Batch:
    """Chunks on their way through the stages."""

    number: int
    points: list[Point] = field(default_factory=list)
    """All chunks; after the look-up, those that must be embedded."""
    ends: list[tuple[str, int]] = field(default_factory=list)
    """(key, number of chunks) of the documents that end in this batch."""
    stale: list[str] = field(default_factory=list)
    """Ids of points behind the end of their document."""
    seen: int = 0
    """Records that were read for it."""
    chunks: int = 0
    skipped: int = 0
    """Chunks that are stored already."""
    chars: int = 0
    vectors: Float32Array | None = None
    """Shape: (len(points), dimensions)"""
    failures: list[Failure] = field(default_factory=list)
    previous: Batch | None = None
    """The batch with the chunks before the first one here, of the same document.

    It is written first: then the points of a document never have a gap, and those behind its end
    can be found by counting on.
    """
    follower: Batch | None = None
    """The batch that waits for this one to be written."""
    lost: bool = False
    """Whether something in it was given up, and so everything that follows it."""
    settled: bool = False
    stage: Stage | None = None


_Step: TypeAlias = "Callable[[Batch], None]"
_Task: TypeAlias = "Callable[[], None]"


class Pipeline:
    """Runs one load.

    Args:
        batches: Reads and splits. It runs on a thread of its own.
        look_up: Leaves the points that must be embedded, and finds the stale ones.
        embed: Sets `vectors` and `failures`. It runs on several threads.
        write: Stores the points, deletes the stale ones, and returns when that is confirmed.
        count: Called on the calling thread with each batch when it is done.
        give_up: Called when the target has failed for good, so that nothing waits for it any more.
        writers: Threads for `look_up` and `write`; 1: the calling thread.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        look_up: _Step,
        embed: _Step,
        write: _Step,
        count: _Step,
        give_up: Callable[[], None],
        writers: int,
    ) -> None:
        self._batches = batches
        self._look_up, self._embed, self._write, self._count = look_up, embed, write, count
        self._give_up = give_up
        self._writers = writers if writers > 1 else 0
        self._places = threading.Semaphore(EMBEDDING_CALLS)
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self._target_work = SimpleQueue() if self._writers else self._inbox
        self._look_ups: deque[Batch] = deque()
        self._writes: deque[Batch] = deque()
        self._to_embed: SimpleQueue[Batch | None] = SimpleQueue()
        self._in: Counter[Stage] = Counter()
        self._read = self._finished = 0
        self._reading = True
        self._stopping = self._draining = self._aborted = False
        self._errors: list[tuple[int, Exception]] = []

    @property
    def depths(self) -> Depths:
        """How full the stages are."""
        return Depths(
            looking_up=self._in["look up"], embedding=self._in["embed"], writing=self._in["write"]
        )

    def stop(self) -> None:
        """Read no more, write what is being embedded, and end. A signal handler may call it."""
        self._stopping = True
        self._inbox.put(None)  # `SimpleQueue.put` is reentrant; it ends a wait for something to do

    def run(self) -> None:
        """Take every batch through the stages.

        Raises:
            QuernstoneError: The first error by the order of the batches. After one of the target
                everything is given up; after any other, what was read before is still written.
        """
        jobs = [self._read_all, *[self._embed_all] * EMBEDDING_CALLS]
        jobs += [self._serve] * self._writers
        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            while self._finished < self._read or (self._reading and not self._ends_early):
                task = self._inbox.get()
                if task is not None:
                    task()
        except BaseException:  # an interrupt, or an error of what the caller lets us call
            self._abort()
            raise
        finally:
            for _ in range(EMBEDDING_CALLS):
                self._to_embed.put(None)
            for _ in range(self._writers):
                self._target_work.put(None)
        for thread in threads[1:]:  # the reader may hang in a source that has nothing more to say
            thread.join()
        if self._errors:
            raise min(self._errors, key=lambda numbered: numbered[0])[1]

    @property
    def _ends_early(self) -> bool:
        return self._stopping or self._draining or self._aborted

    def _abort(self) -> None:
        self._aborted = True
        self._give_up()

    # ---------------------------------------------------------------------------- reader thread

    def _read_all(self) -> None:
        failure: Exception | None = None
        try:
            while self._take_place():
                batch = next(self._batches, None)
                if batch is None or self._ends_early:
                    break
                self._read += 1
                self._enter("look up", batch)
        except Exception as error:  # noqa: BLE001 - raised again on the calling thread
            failure = error
        self._inbox.put(partial(self._end_reading, failure))

    def _take_place(self) -> bool:
        while not self._ends_early:
            if self._places.acquire(timeout=0.1):
                return True
        return False

    # ------------------------------------------------------------------------ embedding threads

    def _embed_all(self) -> None:
        while (batch := self._to_embed.get()) is not None:
            if self._stopping or self._aborted:
                self._settle(batch, lost=True)
            elif self._did(self._embed, batch):
                self._enter("write", batch)

    # -------------------------------------------- threads for the target, or the calling thread

    def _serve(self) -> None:
        while (task := self._target_work.get()) is not None:
            task()

    def _do_next(self) -> None:
        try:  # writes first: what is embedded is then lost to a crash for as short as can be
            batch = self._writes.popleft()
        except IndexError:
            self._do_look_up(self._look_ups.popleft())
        else:
            self._do_write(batch)

    def _do_look_up(self, batch: Batch) -> None:
        if self._stopping or self._aborted:
            self._settle(batch, lost=True)
        elif self._did(self._look_up, batch):
            if batch.points:
                self._enter("embed", batch)
            elif batch.stale:
                self._enter("write", batch)
            else:
                self._settle(batch)

    def _do_write(self, batch: Batch) -> None:
        if self._aborted or (batch.previous is not None and batch.previous.lost):
            self._settle(batch, lost=True)
        elif self._did(self._write, batch):
            self._settle(batch)

    # ----------------------------------------------------------------------- between the stages

    def _did(self, step: _Step, batch: Batch) -> bool:
        try:
            step(batch)
        except Exception as error:  # noqa: BLE001 - raised again on the calling thread
            self._settle(batch, error)
            return False
        return True

    def _enter(self, stage: Stage, batch: Batch) -> None:
        with self._lock:
            self._in[stage] += 1
            if batch.stage is not None:
                self._in[batch.stage] -= 1
            batch.stage = stage
            before = batch.previous
            waits = stage == "write" and before is not None and not before.settled
            if waits and before is not None:
                before.follower = batch
        if stage == "look up":
            self._look_ups.append(batch)
            self._target_work.put(self._do_next)
        elif stage == "embed":
            self._to_embed.put(batch)
        elif not waits:
            self._writes.append(batch)
            self._target_work.put(self._do_next)

    def _settle(self, batch: Batch, error: Exception | None = None, *, lost: bool = False) -> None:
        """Take a batch out: it is done, it failed with an error, or it was given up."""
        with self._lock:
            if batch.stage is not None:
                self._in[batch.stage] -= 1
            batch.lost = batch.lost or lost or error is not None
            batch.settled = True
            batch.previous = None  # or a document without end would hold all of its batches
            follower, batch.follower = batch.follower, None
        self._inbox.put(partial(self._finish, batch, error, done=not lost))
        if follower is not None:
            self._writes.append(follower)
            self._target_work.put(self._do_next)

    # ---------------------------------------------------------------------- the calling thread

    def _finish(self, batch: Batch, error: Exception | None, *, done: bool) -> None:
        self._finished += 1
        self._places.release()
        if self._finished == 1:
            self._places.release(IN_FLIGHT - EMBEDDING_CALLS)
        if error is None and done:
            try:
                self._count(batch)
            except QuernstoneError as failure:
                error = failure
        if error is not None:
            self._fail(batch.number, error)

    def _end_reading(self, error: Exception | None) -> None:
        self._reading = False
        if error is not None:
            self._fail(self._read, error)

    def _fail(self, number: int, error: Exception) -> None:
        self._errors.append((number, error))
        if isinstance(error, QuernstoneError) and not isinstance(error, TargetError):
            self._draining = True
        else:
            self._abort()

"""Run the stages of a load concurrently: read and split, look up, embed, write.

    reader thread -> look up -> embedding threads -> write -> counted on the calling thread
                        `---- target threads ----'

A batch takes one of `IN_FLIGHT` slots before it is read and releases it once it is written. This
bounds memory whatever the number of records, and leaves enough batches in the queues to hide a
slow moment of one stage. The load starts with only `EMBEDDING_CALLS` slots and adds the others when
the first batch is done, because its speed determines how large they should be.

A server is used from `Target.writers` threads. An embedded client may only be used from the thread
that created it, so there the calling thread does the lookups and writes itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

from quernstone.errors import QuernstoneError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.errors import TargetError
from quernstone_qdrant.report import Depths

Stage: TypeAlias = Literal["look up", "embed", "write"]

EMBEDDING_CALLS = 3
"""Concurrent calls of the embedder: one batch is computed while the next is tokenized, and the
engine merges concurrent batches into shared forward passes."""
IN_FLIGHT = 10
"""Maximum number of batches between reading and counting: enough for the embedder, for as many more
waiting for it, and for those being written."""
MODEL_SECONDS = 2.0
"""Seconds after `stop` until batches that are being embedded are abandoned: a large model may take
minutes."""
TARGET_SECONDS = 6.0
"""Seconds after `stop` until writes are abandoned. Containers are killed after ten."""
_POLL_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class Batch:
    """A batch of chunks that moves through the stages."""

    number: int
    points: list[Point] = field(default_factory=list)
    """All chunks; after the lookup, only those that must be embedded."""
    ends: list[tuple[str, int]] = field(default_factory=list)
    """(key, number of chunks) of each document that ends in this batch."""
    stale: list[str] = field(default_factory=list)
    """Ids of stored points past the end of their document, which became shorter."""
    stale_keys: list[str] = field(default_factory=list)
    """Key of the document of each id in `stale`."""
    seen: int = 0
    """Records that were read for this batch."""
    unread: float = 0.0
    """Fraction of the last record, by characters, that follows in later batches: 0 to 1."""
    chunks: int = 0
    skipped: int = 0
    """Chunks that are already stored, unchanged."""
    unconfirmed: int = 0
    """Unchanged chunks that are written again, because not every replica could be asked."""
    chars: int = 0
    refreshed: list[Point] = field(default_factory=list)
    """Stored points of LlamaIndex nodes whose text is unchanged but whose other fields changed."""
    vectors: Float32Array | None = None
    """Shape: (len(points), dimensions)"""
    failures: list[Failure] = field(default_factory=list)
    replaced: int = 0
    """Documents that start in this batch and replace those of another source."""
    refused: set[str] = field(default_factory=set)
    """Keys of the documents that must not replace those of another source."""
    previous: Batch | None = None
    """The batch with the preceding chunks of the same document, if this one starts inside it.

    The previous batch is written first. So the chunk numbers of a stored document never have a gap,
    and points past its end can be found by counting up.
    """
    follower: Batch | None = None
    """The batch that waits until this one is written."""
    lost: bool = False
    """True if the batch was not fully written. A batch that follows it is then not written."""
    settled: bool = False
    """True once the batch is written, has failed, or is abandoned."""
    stage: Stage | None = None

    def refuse(self, keys: Iterable[str]) -> None:
        """Drop the chunks of the documents with these keys, here and in later batches."""
        self.refused.update(keys)
        if not self.refused:
            return
        kept = [point.chunk.record.key not in self.refused for point in self.points]
        if self.vectors is not None:
            self.vectors = self.vectors[kept]
        self.points = [point for point, keep in zip(self.points, kept, strict=True) if keep]
        self.refreshed = [p for p in self.refreshed if p.chunk.record.key not in self.refused]
        self.ends = [end for end in self.ends if end[0] not in self.refused]
        stale = zip(self.stale, self.stale_keys, strict=True)
        rest = [(point, key) for point, key in stale if key not in self.refused]
        self.stale, self.stale_keys = [p for p, _ in rest], [key for _, key in rest]


_Step: TypeAlias = "Callable[[Batch], None]"
_Task: TypeAlias = "Callable[[], None]"


class Pipeline:
    """The concurrent stages of one load.

    Args:
        batches: Reads and splits; iterated on a thread of its own.
        look_up: Drops points that are already stored, and finds stale ones.
        embed: Sets `vectors` and `failures`. Called from several threads.
        write: Stores the points, deletes the stale ones, and returns when that is confirmed.
        count: Called on the calling thread with each finished batch.
        give_up: Called after a permanent failure, to end pending retries.
        writers: Number of threads for `look_up` and `write`; with 1, the calling thread runs them.
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
        self._slots = threading.Semaphore(EMBEDDING_CALLS)
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self._target_work = SimpleQueue() if self._writers else self._inbox
        self._at_target = 0
        """Unfinished tasks of the target threads."""
        self._look_ups: deque[Batch] = deque()
        self._writes: deque[Batch] = deque()
        self._to_embed: SimpleQueue[Batch | None] = SimpleQueue()
        self._in_stage: Counter[Stage] = Counter()
        self._read = self._finished = 0
        self._reading = True
        self._stopping = self._draining = self._aborted = False
        self._stopped_at = math.inf
        self._errors: list[tuple[int, Exception]] = []

    @property
    def depths(self) -> Depths:
        """Number of batches in or waiting for each stage."""
        return Depths(
            looking_up=self._in_stage["look up"],
            embedding=self._in_stage["embed"],
            writing=self._in_stage["write"],
        )

    def stop(self) -> None:
        """Stop reading, write what is embedded within two seconds, and end.

        A signal handler may call this.
        """
        self._stopped_at = min(self._stopped_at, time.monotonic())
        self._stopping = True
        self._inbox.put(None)  # wakes `run`; `SimpleQueue.put` is reentrant

    def run(self) -> None:
        """Take every batch through the stages.

        Raises:
            QuernstoneError: The first error, in the order of the batches. An error of the target
                aborts the load. After any other error, batches that were already read are still
                written.
            BaseException: Anything else that the records, the embedder or the client raised, such
                as `KeyboardInterrupt`, or the panic of a library in Rust. It aborts the load.
        """
        jobs = [self._read_all, *[self._embed_all] * EMBEDDING_CALLS]
        jobs += [self._serve] * self._writers
        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            while self._finished < self._read or (self._reading and not self._ends_early):
                try:
                    task = self._inbox.get(timeout=_POLL_SECONDS if self._stopping else None)
                except Empty:
                    if self._is_abandoned():
                        break
                    continue
                if task is not None:
                    task()
        except BaseException:  # an interrupt, or an error raised by a callback
            self._abort()
            raise
        finally:
            for _ in range(EMBEDDING_CALLS):
                self._to_embed.put(None)
            for _ in range(self._writers):
                self._target_work.put(None)
        if self._finished == self._read:
            for thread in threads[1:]:  # the reader's source may block forever
                thread.join()
        if self._errors:
            raise min(self._errors, key=lambda numbered: numbered[0])[1]

    @property
    def _ends_early(self) -> bool:
        return self._stopping or self._draining or self._aborted

    def _is_abandoned(self) -> bool:
        """Return True if `stop` was called so long ago that batches in flight are abandoned."""
        seconds = time.monotonic() - self._stopped_at
        if seconds < MODEL_SECONDS:
            return False
        self._give_up()
        with self._lock:
            self._aborted = not self._at_target or seconds >= TARGET_SECONDS
        return self._aborted

    def _abort(self) -> None:
        self._aborted = True
        self._give_up()

    # ---------------------------------------------------------------------------- reader thread

    def _read_all(self) -> None:
        failure: BaseException | None = None
        try:
            while self._acquire_slot():
                batch = next(self._batches, None)
                if batch is None or self._ends_early:
                    break
                self._read += 1
                self._enter("look up", batch)
        except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
            failure = error
        self._inbox.put(partial(self._end_reading, failure))

    def _acquire_slot(self) -> bool:
        while not self._ends_early:
            if self._slots.acquire(timeout=0.1):
                return True
        return False

    # ------------------------------------------------------------------------ embedding threads

    def _embed_all(self) -> None:
        while (batch := self._to_embed.get()) is not None:
            if self._stopping or self._aborted:
                self._settle(batch, lost=True)
            elif self._try(self._embed, batch):
                self._enter("write", batch)

    # ------------------------------------------------- target threads, or the calling thread

    def _serve(self) -> None:
        while (task := self._target_work.get()) is not None:
            task()

    def _do_next(self) -> None:
        try:  # writes first, so that a crash loses as few embedded batches as possible
            batch = self._writes.popleft()
        except IndexError:
            self._do_look_up(self._look_ups.popleft())
        else:
            self._do_write(batch)
        with self._lock:
            self._at_target -= 1

    def _do_look_up(self, batch: Batch) -> None:
        if self._stopping or self._aborted:
            self._settle(batch, lost=True)
        elif self._try(self._look_up, batch):
            if batch.points:
                self._enter("embed", batch)
            elif batch.stale or batch.refreshed:
                self._enter("write", batch)
            else:
                self._settle(batch)

    def _do_write(self, batch: Batch) -> None:
        if self._aborted or (batch.previous is not None and batch.previous.lost):
            self._settle(batch, lost=True)
        elif self._try(self._write, batch):
            self._settle(batch)

    # ----------------------------------------------------------------------- between the stages

    def _try(self, step: _Step, batch: Batch) -> bool:
        try:
            step(batch)
        except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
            self._settle(batch, error)
            return False
        return True

    def _enter(self, stage: Stage, batch: Batch) -> None:
        with self._lock:
            self._in_stage[stage] += 1
            if batch.stage is not None:
                self._in_stage[batch.stage] -= 1
            batch.stage = stage
            previous = batch.previous
            waits = stage == "write" and previous is not None and not previous.settled
            if waits and previous is not None:
                previous.follower = batch
        if stage == "look up":
            self._submit(self._look_ups, batch)
        elif stage == "embed":
            self._to_embed.put(batch)
        elif not waits:
            self._submit(self._writes, batch)

    def _submit(self, queue: deque[Batch], batch: Batch) -> None:
        """Let a target thread take the next batch."""
        with self._lock:
            self._at_target += 1
        queue.append(batch)
        self._target_work.put(self._do_next)

    def _settle(
        self, batch: Batch, error: BaseException | None = None, *, lost: bool = False
    ) -> None:
        """Remove a batch that is written, has failed (`error`), or is abandoned (`lost`)."""
        with self._lock:
            if batch.stage is not None:
                self._in_stage[batch.stage] -= 1
            batch.lost = batch.lost or lost or error is not None
            batch.settled = True
            batch.previous = None  # frees the earlier batches of a very long document
            follower, batch.follower = batch.follower, None
        self._inbox.put(partial(self._finish, batch, error, done=not lost))
        if follower is not None:
            self._submit(self._writes, follower)

    # ---------------------------------------------------------------------- the calling thread

    def _finish(self, batch: Batch, error: BaseException | None, *, done: bool) -> None:
        self._finished += 1
        self._slots.release()
        if self._finished == 1:
            self._slots.release(IN_FLIGHT - EMBEDDING_CALLS)
        if error is None and done:
            try:
                self._count(batch)
            except QuernstoneError as failure:
                error = failure
        if error is not None:
            self._fail(batch.number, error)

    def _end_reading(self, error: BaseException | None) -> None:
        self._reading = False
        if error is not None:
            self._fail(self._read, error)

    def _fail(self, number: int, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error  # `run` aborts the load
        self._errors.append((number, error))
        if isinstance(error, QuernstoneError) and not isinstance(error, TargetError):
            self._draining = True
        else:
            self._abort()

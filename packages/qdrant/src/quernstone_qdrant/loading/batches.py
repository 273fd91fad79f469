"""From records to batches of chunks that have ids and hashes: what a load reads."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from quernstone.errors import QuernstoneError
from quernstone_qdrant.documents.chunking import Chunk, Chunker
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.documents.records import Record, to_record
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.duplicates import RecentKeys
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.loading.seen import SeenHashes


class BatchReader:
    """Reads records, splits them, and collects the chunks in batches.

    Args:
        chunker: Splits.
        make_point: Gives a chunk its id and its hash.
        size: Most chunks per batch, and most documents.
        batch_chars: Says at how many characters a batch is closed before that.
        skip_errors: Hand errors over with the batch, and go on. Otherwise the first is raised,
            after the batch with what came before it.
        source: Of records that name none.
        seen: Gets the ids of all points; None: nobody wants them.
    """

    def __init__(
        self,
        chunker: Chunker,
        make_point: Callable[[Chunk], Point],
        *,
        size: int,
        batch_chars: Callable[[], int],
        skip_errors: bool,
        source: str = "",
        seen: SeenHashes | None = None,
    ) -> None:
        self._chunker, self._make_point = chunker, make_point
        self._size, self._batch_chars, self._skip_errors = size, batch_chars, skip_errors
        self._source, self._seen = source, seen
        self.sources: set[str] = set()
        """Those of the records so far."""
        self._recent = RecentKeys()
        self._batch = Batch(0)

    def batches(self, records: Iterable[object]) -> Iterator[Batch]:
        """Read to the end.

        Raises:
            QuernstoneError: The first error, when `skip_errors` is off.
        """
        self._batch = Batch(0)
        try:
            for position, value in enumerate(records):
                record = self._record(value, position)
                if record is not None:
                    yield from self._split(record)
                if self._is_full():
                    yield self._close()
        except QuernstoneError:
            yield self._close()
            raise
        if self._batch.seen or self._batch.failures or self._batch.points:
            yield self._close()

    def _record(self, value: object, position: int) -> Record | None:
        """None: it was left out, or it was here before."""
        if isinstance(value, QuernstoneError):
            self._leave_out(value, None)
            return None
        self._batch.seen += 1
        try:
            record = to_record(value, position)
            repeat = self._recent.is_repeat(record)
        except RecordError as error:
            self._leave_out(error, value)
            return None
        if repeat:
            return None
        if self._source and not record.source:
            record = replace(record, source=self._source)
        self.sources.add(record.source)
        return record

    def _split(self, record: Record) -> Iterator[Batch]:
        chunks = 0
        for chunk in self._chunker.split(record):
            point = self._make_point(chunk)
            if self._seen is not None:
                self._seen.add(uuid.UUID(point.id).bytes)
            self._batch.points.append(point)
            self._batch.chars += len(point.text)
            chunks = chunk.number + 1
            if not chunk.last and self._is_full():
                closed = self._close()
                self._batch.previous = closed
                yield closed
        self._batch.ends.append((record.key, chunks))

    def _is_full(self) -> bool:
        batch, most = self._batch, self._size
        documents = batch.seen + len(batch.failures)
        if len(batch.points) >= most or documents >= most:
            return True
        return batch.chars >= self._batch_chars()

    def _close(self) -> Batch:
        closed = self._batch
        closed.chunks = len(closed.points)
        self._batch = Batch(closed.number + 1)
        return closed

    def _leave_out(self, error: QuernstoneError, record: object) -> None:
        if not self._skip_errors:
            raise error
        self._batch.failures.append(Failure(error, record))

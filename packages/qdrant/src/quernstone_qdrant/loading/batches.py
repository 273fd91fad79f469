"""Turn records into batches of chunks with ids and hashes: the first stage of a load."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from quernstone.errors import QuernstoneError
from quernstone_qdrant.documents.chunking import Chunk, Chunker
from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.points import Point
from quernstone_qdrant.documents.records import Record, is_random_id, to_record
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.duplicates import KnownKeys, LateDuplicates
from quernstone_qdrant.loading.index_types import index_type_error
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.settings import FieldType

_WHOLE = Chunker(None)
_REPLACED = "replaced an earlier record of this load that has the same key and other content"
_UNIQUE = (
    "give each record a unique id, or load the files separately, each with a --namespace of its own"
)


class BatchReader:
    """A reader that splits records into chunks and groups the chunks into batches.

    Args:
        chunker: Splits the text of a record.
        make_point: Gives a chunk its id and its hash.
        size: Maximum number of chunks, and of documents, per batch.
        batch_chars: Returns the number of characters at which a smaller batch is complete.
        skip_errors: Add errors to the batch and continue. Otherwise the first error is raised,
            after a batch with everything that was read before it.
        source: Source of the records that do not name one.
        seen: Receives the ids of all points; None if they are not needed.
        indexes: Types of the indexed metadata fields; a value of another type is an error.
        convert: Converts a value and its position to a record. The nodes of a document need not be
            consecutive, so about 150 bytes are kept for each such document.
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
        indexes: Mapping[str, FieldType] | None = None,
        convert: Callable[[object, int], Record] = to_record,
    ) -> None:
        self._chunker, self._make_point = chunker, make_point
        self._size, self._batch_chars, self._skip_errors = size, batch_chars, skip_errors
        self._source, self._seen, self._indexes = source, seen, indexes or {}
        self.sources: set[str] = set()
        """Sources of the records read so far."""
        self._keys = KnownKeys()
        self._late_duplicates = LateDuplicates(0, [])
        self._convert = convert
        self._nodes: dict[str, int] = {}
        """Number of nodes read so far, by the key of their document."""
        self._random_ids = 0
        self._blank, self._first_blank = 0, ""
        self._batch = Batch(0)

    @property
    def notes(self) -> list[str]:
        """Notes for the report."""
        notes = []
        if self._random_ids:
            notes.append(
                f"{self._random_ids:,} documents have random ids (UUID 4), the default of "
                "LlamaIndex: if the next run gives them others, it adds them again; set them, as "
                "with `Document(id_=...)` or `SimpleDirectoryReader(filename_as_id=True)`"
            )
        if self._blank:
            notes.append(
                f"{self._blank:,} records have no text and were not stored; the first is "
                f"{self._first_blank!r}"
            )
        late = self._late_duplicates
        if late.count and self._skip_errors:
            notes.append(f"{late.count:,} records {_REPLACED}: {late}; {_UNIQUE}")
        return notes

    def batches(self, records: Iterable[object]) -> Iterator[Batch]:
        """Yield batches until the records are exhausted.

        Raises:
            QuernstoneError: The first error, if `skip_errors` is off.
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
        self._late_duplicates = self._keys.late_duplicates()
        for end in self._nodes.items():
            self._batch.ends.append(end)
            if len(self._batch.ends) >= self._size:
                yield self._close()
        batch = self._batch
        if batch.seen or batch.failures or batch.points or batch.ends:
            yield self._close()
        late = self._late_duplicates
        if late.count and not self._skip_errors:
            raise RecordError(
                next(iter(late.keys), ""),
                f"{late.count:,} records {_REPLACED}, and every run would write both of them "
                f"again: {late}; {_UNIQUE}",
            )

    def _record(self, value: object, position: int) -> Record | None:
        """Convert a value to a record; return None for an error or a repeated record."""
        if isinstance(value, QuernstoneError):
            self._skip(value, None)
            return None
        self._batch.seen += 1
        try:
            record = self._convert(value, position)
            reason = index_type_error(record.metadata, self._indexes) if self._indexes else None
            if reason is not None:
                raise RecordError(record.key, reason)
            is_duplicate = self._keys.is_duplicate(record)
        except RecordError as error:
            self._skip(error, value)
            return None
        if is_duplicate:
            return None
        if self._source and not record.source:
            record = replace(record, source=self._source)
        self.sources.add(record.source)
        return record

    def _split(self, record: Record) -> Iterator[Batch]:
        """Add the chunks of a record, yielding each batch that fills up before the last one."""
        if record.is_chunk:
            self._add_node(record)
            return
        chunks = 0
        chunker = self._chunker if record.vector is None else _WHOLE
        for chunk in chunker.split(record):
            self._add(chunk)
            chunks = chunk.number + 1
            if not chunk.last and self._is_full():
                self._batch.unread = 1 - (chunk.start + len(chunk.text)) / len(record.text)
                closed = self._close()
                self._batch.previous = closed
                yield closed
        self._batch.ends.append((record.key, chunks))
        if not chunks:
            self._skip_blank(record)

    def _add_node(self, record: Record) -> None:
        """Add a node as the next chunk of its document, which ends only with the last record."""
        number = self._nodes.get(record.key)
        if number is None:
            number = self._nodes[record.key] = 0
            self._random_ids += is_random_id(record.key)
        if record.text.strip():
            self._add(Chunk(record, number, record.text, start=0))
            self._nodes[record.key] = number + 1
        else:
            self._skip_blank(record)

    def _skip_blank(self, record: Record) -> None:
        self._first_blank = self._first_blank or record.key
        self._blank += 1

    def _add(self, chunk: Chunk) -> None:
        point = self._make_point(chunk)
        if self._seen is not None:
            self._seen.add(uuid.UUID(point.id).bytes)
        self._batch.points.append(point)
        self._batch.chars += len(point.text)

    def _is_full(self) -> bool:
        batch = self._batch
        documents = batch.seen + len(batch.failures)
        if len(batch.points) >= self._size or documents >= self._size:
            return True
        return batch.chars >= self._batch_chars()

    def _close(self) -> Batch:
        closed = self._batch
        closed.chunks = len(closed.points)
        self._batch = Batch(closed.number + 1)
        if self._nodes:  # a document may continue in any later batch
            self._batch.previous = closed
        return closed

    def _skip(self, error: QuernstoneError, record: object) -> None:
        if not self._skip_errors:
            raise error
        self._batch.failures.append(Failure(error, record))

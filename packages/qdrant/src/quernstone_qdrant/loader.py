"""Loads any number of records into a collection: exactly once, however often it is run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from qdrant_client import QdrantClient

from quernstone.errors import (
    ConfigError,
    EngineMemoryError,
    InputError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.types import Float32Array
from quernstone_qdrant.chunking import Chunker
from quernstone_qdrant.duplicates import RecentKeys
from quernstone_qdrant.errors import RecordError, TargetError
from quernstone_qdrant.layouts import OWN_KEY, LayoutName, layout_of
from quernstone_qdrant.points import Point, make_point, point_id, stored_hash
from quernstone_qdrant.provenance import Provenance, TextEmbedder, prepare_collection
from quernstone_qdrant.records import Record, to_record
from quernstone_qdrant.settings import CollectionSettings, Preset, SettingsWish
from quernstone_qdrant.targets import Target, as_target

_AHEAD = 2
"""Batches that are prepared while one is embedded."""
_BATCH_CHARS = 4_000_000
"""Texts are stored twice, in UTF-8: this keeps a request far below Qdrant's limit of 32 MiB."""
_PROBE = 64
"""Ids that are looked for at a time behind the end of a document that got shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did, or has done so far. `chunks == embedded + skipped` when nothing failed."""

    seen: int = 0
    """Records read."""
    chunks: int = 0
    """Chunks they were split into."""
    embedded: int = 0
    """Chunks that were embedded, written, and confirmed by Qdrant."""
    skipped: int = 0
    """Chunks that were there already, unchanged."""
    removed: int = 0
    """Points deleted because their document became shorter."""
    failed: int = 0
    """Files, records and chunks that were left out because of an error."""
    seconds: float = 0.0


@dataclass(slots=True)
class _Batch:
    """Chunks on their way through the stages."""

    points: list[Point] = field(default_factory=list)
    """All chunks; after the lookup, those that must be embedded."""
    ends: list[tuple[str, int]] = field(default_factory=list)
    """(key, number of chunks) of the documents that end in this batch."""
    stale: list[str] = field(default_factory=list)
    """Ids of points behind the end of their document."""
    chunks: int = 0
    chars: int = 0


@dataclass(frozen=True, slots=True)
class _Embedded:
    points: list[Point]
    vectors: Float32Array
    """Shape: (len(points), dimensions)"""
    failures: list[RecordError]


class QdrantLoader:
    """Writes documents into one collection, with everything needed to find them again.

    A point's id is made of the collection, the document's key and the chunk's number, and its
    payload holds a hash of its content. Before a batch is embedded its ids are looked up, and what
    is there unchanged is skipped. So a second run adds nothing, a run after a crash goes on where
    the first one stopped, and an edited document is replaced.

    Args:
        client: Of any kind, or a target. It is used on the calling thread only.
        collection: Created when missing.
        embedder: Usually a `quernstone.Embedder`.
        preset: How a new collection stores its points: a preset's name, or settings of your own;
            None: `dense`, or what the collection was made with.
        layout: Shape of the payload; None: `universal`, or what the collection was made with.
        hybrid: Whether there is BM25 for hybrid search; None: no, or what the collection was made
            with.
        chunk_size: Most characters per chunk; None keeps every text whole.
        chunk_overlap: Most characters that a chunk repeats of the one before; None: a tenth of
            `chunk_size`.
        batch_size: Chunks per lookup, embedding call and write.
        skip_errors: Leave out what cannot be read or embedded, count it, and go on. Otherwise the
            load stops at the first such error, after writing all that was embedded before it.
        on_error: Called with each error that is left out.
        progress: Called after each batch with the report so far.

    Raises:
        ConfigError: A size that can never work.
        CollectionError: The collection cannot take these vectors, or was made with other settings.
        ProvenanceError: The collection was made with another model.
        TargetError: Qdrant cannot be reached.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> from quernstone import Embedder
        >>> loader = QdrantLoader(QdrantClient(":memory:"), "notes", Embedder("tiny"))
        >>> loader.load([{"id": "mill", "text": "A quern is a hand mill."}]).embedded
        1
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: TextEmbedder,
        *,
        preset: Preset | CollectionSettings | None = None,
        layout: LayoutName | None = None,
        hybrid: bool | None = None,
        chunk_size: int | None = 1200,
        chunk_overlap: int | None = None,
        batch_size: int = 256,
        skip_errors: bool = False,
        on_error: Callable[[QuernstoneError], None] | None = None,
        progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size}; it must be at least 1")
        self._chunker = Chunker(chunk_size, chunk_overlap)
        self._embedder = embedder
        self._batch_size = batch_size
        self._skip_errors = skip_errors
        self._on_error = on_error
        self._progress = progress
        self._target = as_target(client, collection)
        wish = SettingsWish(preset=preset, layout=layout, hybrid=hybrid)
        self._provenance = prepare_collection(self._target, embedder, wish)
        self._layout = layout_of(self._provenance.settings.layout)
        self._report, self._started = LoadReport(), time.monotonic()

    @property
    def provenance(self) -> Provenance:
        """What the collection records about its model."""
        return self._provenance

    def load(self, records: Iterable[object]) -> LoadReport:
        """Load records, in bounded memory.

        Args:
            records: Of any length: mappings, dataclasses, `Record`s, LangChain documents,
                LlamaIndex nodes (see `to_record`). An error among them, as `read_paths` yields,
                is treated like an error of the loader's own.

        Returns:
            The figures of this call.

        Raises:
            SourceError: A file or row cannot be read, and `skip_errors` is off.
            RecordError: A record cannot be loaded, and `skip_errors` is off.
            EngineError: The model failed.
            TargetError: Qdrant failed; what was confirmed before stays.
        """
        self._report, self._started = LoadReport(), time.monotonic()
        # One batch is embedded on a thread of its own while this one writes the batch before and
        # prepares the next. Only this thread uses the client: an embedded one belongs to a thread.
        running: deque[tuple[_Batch, Future[_Embedded]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="quernstone-load") as embedding:
            try:
                for batch in self._batches(records):
                    running.append((batch, embedding.submit(self._embed, batch.points)))
                    if len(running) > _AHEAD:
                        self._write(*running.popleft())
                while running:
                    self._write(*running.popleft())
            except TargetError:
                raise  # what waits could not be written either
            except QuernstoneError:
                with suppress(QuernstoneError):  # the first error is the one to report
                    while running:
                        self._write(*running.popleft())
                raise
            finally:
                for _, future in running:
                    future.cancel()
        return self._report

    def _batches(self, records: Iterable[object]) -> Iterator[_Batch]:
        """Read, split and look up. What was read before an error is a batch, too."""
        batch = _Batch()
        try:
            for record in self._records(records):
                number = 0
                for chunk in self._chunker.split(record):
                    point = make_point(
                        self._provenance.namespace,
                        self._provenance.fingerprint,
                        chunk,
                        self._layout,
                    )
                    batch.points.append(point)
                    batch.chars += len(point.text)
                    number = chunk.number + 1
                    if not chunk.last and self._is_full(batch):
                        yield self._look_up(batch)
                        batch = _Batch()
                batch.ends.append((record.key, number))
                if self._is_full(batch):
                    yield self._look_up(batch)
                    batch = _Batch()
        except TargetError:
            raise
        except QuernstoneError:
            yield self._look_up(batch)
            raise
        if batch.points or batch.ends:
            yield self._look_up(batch)

    def _records(self, records: Iterable[object]) -> Iterator[Record]:
        recent = RecentKeys()
        for position, value in enumerate(records):
            if isinstance(value, QuernstoneError):
                self._leave_out(value)
                continue
            self._count(seen=1)
            try:
                record = to_record(value, position)
                repeat = recent.is_repeat(record)
            except RecordError as error:
                self._leave_out(error)
                continue
            if not repeat:
                yield record

    def _is_full(self, batch: _Batch) -> bool:
        most = self._batch_size
        return len(batch.points) >= most or len(batch.ends) >= most or batch.chars >= _BATCH_CHARS

    def _look_up(self, batch: _Batch) -> _Batch:
        """Keep the points that are missing or different, and find those that nobody needs."""
        namespace = self._provenance.namespace
        behind = [(point_id(namespace, key, n), key, n) for key, n in batch.ends]
        ids = [point.id for point in batch.points] + [found for found, _, _ in behind]
        there = self._target.payloads(ids, [OWN_KEY])
        batch.chunks = len(batch.points)
        batch.points = [
            point
            for point in batch.points
            if stored_hash(there.get(point.id)) != point.content_hash
        ]
        for found, key, number in behind:
            if found in there:
                batch.stale.extend(self._behind(key, number))
        return batch

    def _behind(self, key: str, number: int) -> list[str]:
        """Ids of the points of `key` from chunk `number` on."""
        stale: list[str] = []
        while True:
            ids = [point_id(self._provenance.namespace, key, number + i) for i in range(_PROBE)]
            there = self._target.payloads(ids, [OWN_KEY])
            stale.extend(found for found in ids if found in there)
            if ids[-1] not in there:
                return stale[::-1]  # a crash between two deletes then leaves no gap behind it
            number += _PROBE

    def _embed(self, points: list[Point]) -> _Embedded:
        """Embed a batch. Runs beside the calling thread and must not touch the client."""
        points, failures = list(points), []
        while True:
            try:
                vectors = self._embedder.embed_documents([point.text for point in points])
            except (InputError, EngineMemoryError, NonFiniteError) as error:  # noqa: PERF203
                if error.index is None:
                    raise
                point = points[error.index]
                why = str(error).removeprefix(f"input {error.index}").lstrip(": ")
                reason = f"chunk {point.chunk.number} cannot be embedded: {why}"
                failure = RecordError(point.chunk.record.key, reason)
                failure.__cause__ = error
                failures.append(failure)
                # what comes before the failure is written even if the load stops there
                del points[error.index : error.index + 1 if self._skip_errors else None]
            else:
                return _Embedded(points, vectors, failures)

    def _write(self, batch: _Batch, future: Future[_Embedded]) -> None:
        """Store a batch. It is counted only when Qdrant has confirmed it."""
        done = future.result()
        if done.points:
            texts = [point.text for point in done.points]
            self._target.upsert(done.points, self._provenance.settings.rows(done.vectors, texts))
        if batch.stale:
            self._target.delete(batch.stale)
        for failure in done.failures:
            self._leave_out(failure)
        self._count(
            chunks=batch.chunks,
            embedded=len(done.points),
            skipped=batch.chunks - len(batch.points),
            removed=len(batch.stale),
        )
        if self._progress is not None:
            self._progress(self._report)

    def _leave_out(self, error: QuernstoneError) -> None:
        if not self._skip_errors:
            raise error
        self._count(failed=1)
        if self._on_error is not None:
            self._on_error(error)

    def _count(self, **more: int) -> None:
        sums = {name: getattr(self._report, name) + n for name, n in more.items()}
        seconds = time.monotonic() - self._started
        self._report = replace(self._report, seconds=seconds, **sums)

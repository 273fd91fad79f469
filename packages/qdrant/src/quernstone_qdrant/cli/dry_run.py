"""`quern load --dry-run`: read, split and check everything, and store nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from quernstone.cli.printing import print_json
from quernstone.errors import QuernstoneError
from quernstone_qdrant.cli.collections import StorageOptions
from quernstone_qdrant.cli.failures import SkippedErrors
from quernstone_qdrant.cli.files import describe_files
from quernstone_qdrant.cli.load_options import BatchOptions, UpdateOptions
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone import Embedder
    from quernstone_qdrant.documents.deadletter import DeadLetters
    from quernstone_qdrant.documents.records import Record
    from quernstone_qdrant.loading.batches import BatchReader
    from quernstone_qdrant.loading.pipeline import Batch
    from quernstone_qdrant.loading.precomputed import Vectors
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.sources import FileCounts, FileRecords

_SHOWN = 3
_MEASURED = 64
"""Number of chunks that are embedded to measure the rate."""
_BATCH_CHARS = 1 << 20


@dataclass(slots=True)
class Preview:
    """The outcome of a dry run."""

    documents: int = 0
    chunks: int = 0
    characters: int = 0
    """Characters of all chunks."""
    failed: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)
    """Payloads of the first chunk of the first documents."""
    seconds: float | None = None
    """Estimated time to embed all chunks; None if there are none."""
    notes: tuple[str, ...] = ()
    files: FileCounts | None = None


class DryRun:
    """A load that reads, splits and checks everything in bounded memory, and stores nothing.

    Args:
        collection: Name of the collection.
        provenance: Provenance of the collection, or of the one that the load would create.
        batches: How texts are split.
        skipped: Receives errors; None: the first one is raised.
        letters: Receives the records that a load would skip; None: they are not written.
        vectors: See `QdrantLoader.load_vectors`; None: texts are split and embedded.
    """

    def __init__(
        self,
        collection: str,
        provenance: Provenance,
        batches: BatchOptions,
        *,
        skipped: SkippedErrors | None,
        letters: DeadLetters | None,
        vectors: Vectors | None = None,
    ) -> None:
        from quernstone_qdrant.report import Depths, LoadReport

        self.collection, self.provenance = collection, provenance
        self.report, self.depths = LoadReport(), Depths()
        self._batches, self._vectors = batches, vectors
        self._skipped, self._letters = skipped, letters

    def run(self, records: FileRecords, embedder: Embedder) -> Preview:
        """Read everything, and embed a few chunks to measure the rate.

        Raises:
            SourceError, RecordError: An item cannot be loaded, and errors are not skipped.
        """
        found, sample = Preview(), list[str]()
        reader, started = self._reader(), time.monotonic()
        try:
            for batch in reader.batches(records):
                self._count(batch, time.monotonic() - started)
                found.characters += batch.chars
                firsts = [point for point in batch.points if point.chunk.number == 0]
                found.first += [p.payload() for p in firsts[: _SHOWN - len(found.first)]]
                if self._vectors is None:
                    sample += [p.text for p in batch.points[: _MEASURED - len(sample)]]
        except QuernstoneError:
            self.report = replace(self.report, failed=self.report.failed + 1)
            raise
        finally:
            notes = tuple(reader.notes)
            self.report = replace(self.report, notes=notes, files=records.files)
        report = self.report
        found.documents, found.chunks, found.failed = report.seen, report.chunks, report.failed
        found.notes, found.files = report.notes, report.files
        if sample:
            embedder.embed_documents(sample[:1])  # the first call also prepares the engine
            measured = time.perf_counter()
            embedder.embed_documents(sample)
            rate = sum(map(len, sample)) / (time.perf_counter() - measured)
            found.seconds = found.characters / rate
        return found

    def _reader(self) -> BatchReader:
        from quernstone_qdrant.documents.chunking import Chunker
        from quernstone_qdrant.documents.points import make_point
        from quernstone_qdrant.documents.records import to_record
        from quernstone_qdrant.loading.batches import BatchReader
        from quernstone_qdrant.loading.precomputed import PrecomputedVectors

        provenance, arguments = self.provenance, self._batches.arguments()
        settings = provenance.settings
        convert: Callable[[object, int], Record]
        convert = partial(to_record, record_rule=settings.record_rule)
        if self._vectors is not None:
            convert = PrecomputedVectors(convert, self._vectors, provenance.dimensions)
        return BatchReader(
            Chunker(arguments["chunk_size"], arguments["chunk_overlap"]),
            partial(
                make_point, provenance.namespace, provenance.fingerprint, layout=settings.payloads
            ),
            size=arguments["batch_size"],
            batch_chars=lambda: _BATCH_CHARS,
            skip_errors=self._skipped is not None,
            indexes=settings.indexes,
            convert=convert,
        )

    def _count(self, batch: Batch, seconds: float) -> None:
        for failure in batch.failures:
            if self._letters is not None:
                self._letters.add(failure)
            if self._skipped is not None:
                self._skipped.add(failure.error)
        self.report = replace(
            self.report,
            seen=self.report.seen + batch.seen,
            unread=batch.unread,
            chunks=self.report.chunks + batch.chunks,
            failed=self.report.failed + len(batch.failures),
            seconds=seconds,
        )


def expected_provenance(
    embedder: Embedder,
    collection: CollectionOptions,
    storage: StorageOptions,
    existing: Provenance | None,
    updates: UpdateOptions,
) -> Provenance:
    """Return the provenance that the collection would have after a load.

    Raises:
        CollectionError: An existing collection cannot have these settings.
        ProvenanceError: It was created with another model.
        ConfigError: A setting is not valid.
    """
    from quernstone_qdrant.overrides import SettingsOverrides
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.reconcile import updated_settings
    from quernstone_qdrant.settings import CollectionSettings

    given = storage.arguments()
    overrides = SettingsOverrides(
        preset=given["preset"],
        layout=given["layout"],
        hybrid=given["hybrid"],
        changes=given["settings"],
    )
    size, name = embedder.dimensions, collection.name
    if existing is not None:
        wanted = Provenance.of(embedder, name)
        existing.check(wanted, name, allow_mismatch=updates.allow_mismatch)
        settings = updated_settings(existing.settings, overrides, size, name)
        return replace(existing, settings=settings)
    settings = overrides.apply_to(CollectionSettings()).resolved(size)
    return replace(Provenance.of(embedder, name), settings=settings)


def print_preview(found: Preview, collection: CollectionOptions, *, as_json: bool) -> None:
    """Print the counts, the estimated time and the first records."""
    if as_json:
        names = {"collection": collection.name, "target": collection.where, "dry_run": True}
        print_json({**names, **asdict(found)})
        return
    failed = f", {found.failed:,} failed" if found.failed else ""
    typer.echo(
        f"{collection.name} in {collection.where}: {found.documents:,} documents, "
        f"{found.chunks:,} chunks, {found.characters:,} characters{failed}; nothing was stored"
    )
    if found.files is not None:
        typer.echo(f"  {describe_files(found.files)}")
    if found.seconds is not None:
        rate = found.chunks / found.seconds
        typer.echo(
            f"  embedding all of it takes about {_duration(found.seconds)} at {rate:,.0f} "
            f"chunks/s, measured with {min(found.chunks, _MEASURED)}; unchanged ones take no time"
        )
    for payload in found.first:
        print_json(payload)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

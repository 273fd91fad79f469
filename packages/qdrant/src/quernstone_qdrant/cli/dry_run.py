"""`quern load --dry-run`: read and split everything, and store nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quernstone.cli.options import on_terminal
from quernstone.cli.printing import print_json
from quernstone.errors import QuernstoneError
from quernstone_qdrant.cli.collections import StorageOptions
from quernstone_qdrant.cli.failures import LeftOut
from quernstone_qdrant.cli.files import describe_files
from quernstone_qdrant.cli.load_options import BatchOptions
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone import Embedder
    from quernstone_qdrant.documents.records import Record
    from quernstone_qdrant.loading.given import Vectors
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.sources import FileCounts, ReadOptions

_SHOWN = 3
_MEASURED = 64
"""Chunks that are embedded to measure the rate."""


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
    files: FileCounts | None = None


def preview(
    paths: Sequence[Path],
    reading: ReadOptions,
    batches: BatchOptions,
    embedder: Embedder,
    provenance: Provenance,
    left_out: LeftOut | None,
    *,
    vectors: Vectors | None = None,
) -> Preview:
    """Read and split everything, in bounded memory, and embed a few chunks to measure the rate.

    Args:
        paths: The files and folders.
        reading: How to read them.
        batches: How texts are split.
        embedder: The model.
        provenance: That of the collection, or of the one that the load would create.
        left_out: Receives errors; None raises the first one.
        vectors: See `QdrantLoader.load_vectors`; None: texts are split and embedded.

    Raises:
        SourceError, RecordError: An item cannot be loaded, and `left_out` is None.
    """
    from quernstone.progress import progress_bar
    from quernstone_qdrant.documents.chunking import Chunker
    from quernstone_qdrant.documents.points import make_point
    from quernstone_qdrant.documents.records import to_record
    from quernstone_qdrant.loading.given import GivenVectors
    from quernstone_qdrant.sources import count_records, read_paths

    found, sample = Preview(), list[str]()
    settings = provenance.settings
    rule, layout = settings.record_rule, settings.payloads
    arguments = batches.arguments()
    chunker = Chunker(arguments["chunk_size"], arguments["chunk_overlap"])
    records = read_paths(paths, options=reading)
    convert: Callable[[object, int], Record] = partial(to_record, record_rule=rule)
    if vectors is not None:
        chunker = Chunker(None)
        convert = GivenVectors(convert, vectors, provenance.dimensions)
    with progress_bar("reading", count_records(paths, reading), show=on_terminal()) as advance:
        for position, item in enumerate(records):
            try:
                if isinstance(item, QuernstoneError):
                    raise item
                record = convert(item, position)
            except QuernstoneError as error:
                if left_out is None:
                    raise
                left_out.add(error)
                found.failed += 1
                continue
            found.documents += 1
            for chunk in chunker.split(record):
                if chunk.number == 0 and len(found.first) < _SHOWN:
                    point = make_point(provenance.namespace, provenance.fingerprint, chunk, layout)
                    found.first.append(point.payload())
                if vectors is None and len(sample) < _MEASURED:
                    sample.append(chunk.text)
                found.chunks += 1
                found.characters += len(chunk.text)
            advance(1)
    found.files = records.files
    if sample:
        embedder.embed_documents(sample[:1])  # the first call also prepares the engine
        started = time.perf_counter()
        embedder.embed_documents(sample)
        rate = sum(map(len, sample)) / (time.perf_counter() - started)
        found.seconds = found.characters / rate
    return found


def wished_provenance(
    embedder: Embedder,
    collection: CollectionOptions,
    storage: StorageOptions,
    existing: Provenance | None,
) -> Provenance:
    """Return the provenance that the collection would have after a load.

    Raises:
        CollectionError: An existing collection cannot have these settings.
        ConfigError: A setting is not valid.
    """
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.reconcile import updated_settings
    from quernstone_qdrant.settings import CollectionSettings
    from quernstone_qdrant.wish import SettingsWish

    given = storage.arguments()
    wish = SettingsWish(
        preset=given["preset"],
        layout=given["layout"],
        hybrid=given["hybrid"],
        changes=given["settings"],
    )
    size, name = embedder.dimensions, collection.name
    if existing is not None:
        settings = updated_settings(existing.settings, wish, size, name)
        return replace(existing, settings=settings)
    settings = wish.apply_to(CollectionSettings()).resolved(size)
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

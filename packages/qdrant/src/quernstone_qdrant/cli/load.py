"""`quern load`: load files into a collection."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Dimensions, Json, ModelOptions
from quernstone_qdrant.cli.collections import StorageOptions
from quernstone_qdrant.cli.display import LoadDisplay
from quernstone_qdrant.cli.dry_run import DryRun, expected_provenance, print_preview
from quernstone_qdrant.cli.failures import SkippedErrors, with_remedy
from quernstone_qdrant.cli.files import FileOptions, existing
from quernstone_qdrant.cli.load_options import (
    BatchOptions,
    ErrorOptions,
    UpdateOptions,
    VectorOptions,
    check_inputs,
    dead_letters,
    skipped_errors,
    warn_of_embedded,
)
from quernstone_qdrant.cli.load_report import (
    ReportFiles,
    fail_without_documents,
    print_notes,
    print_summary,
)
from quernstone_qdrant.cli.options import CollectionModel, CollectionOptions, open_embedder
from quernstone_qdrant.cli.recorded_options import RecordedOptions
from quernstone_qdrant.cli.signals import StopSignals


@expand_options
def load(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            callback=existing,
            help="Files and folders: .txt, .md, .markdown, .rst, .jsonl, .ndjson, .csv, .tsv, "
            ".parquet, also .gz and .zst; with the extra `documents` .pdf, .html, .docx, .pptx, "
            ".xlsx and .epub. - is standard input: JSON Lines, or see --input-format.",
        ),
    ],
    *,
    collection: CollectionOptions,
    files: FileOptions,
    given: VectorOptions,
    batches: BatchOptions,
    updates: UpdateOptions,
    errors: ErrorOptions,
    as_json: Json = False,
    storage: StorageOptions,
    model: CollectionModel = None,
    dimensions: Dimensions = None,
    options: ModelOptions,
) -> None:
    """Load files into a Qdrant collection; run it again to update it.

    Texts are split, embedded and written. Unchanged documents are skipped, so a second run adds
    nothing, and a run after a crash or Ctrl-C continues where the first one stopped. A collection
    remembers the model, the chunk size and the id field that it was first loaded with.
    """
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.sources import count_records, read_paths

    reading = files.reading()
    check_inputs(paths, reading, updates, errors)
    vectors = given.given(paths)
    nothing = updates.dry_run and collection.is_missing
    with nullcontext() if nothing else collection.open(create=True) as target:
        recorded = RecordedOptions.read(target) if target else RecordedOptions(collection.name)
        batches = recorded.batches(batches)
        id_field = recorded.id_field(reading.id_field, reading.namespace)
        dimensions = recorded.dimensions(dimensions, allow_mismatch=updates.allow_mismatch)
        if id_field != reading.id_field:
            reading = replace(reading, id_field=id_field)
            check_inputs(paths, reading, updates, errors)
        total = count_records(paths, reading)
        if target is not None:
            warn_of_embedded(target, total)
        with open_embedder(
            options,
            model,
            dimensions,
            collection.name,
            recorded.provenance,
            allow_mismatch=updates.allow_mismatch,
        ) as embedder:
            if target is None or updates.dry_run:
                made = expected_provenance(
                    embedder, collection, storage, recorded.provenance, updates
                )
                with (
                    skipped_errors(errors) as skipped,
                    dead_letters(errors) as letters,
                    LoadDisplay(total, every=errors.progress_every) as display,
                ):
                    trial = DryRun(
                        collection.name,
                        made,
                        batches,
                        skipped=skipped,
                        letters=letters,
                        vectors=vectors,
                    )
                    reports = ReportFiles(trial, collection, errors.report_file, is_dry_run=True)
                    with display.show(trial, reports), with_remedy():
                        found = trial.run(read_paths(paths, options=reading), embedder)
                print_notes(trial.report, pruning=False)
                print_preview(found, collection, as_json=as_json)
                return
            with (
                StopSignals() as signals,
                SkippedErrors(errors.dead_letter) as skipped,
                LoadDisplay(total, every=errors.progress_every) as display,
            ):
                loader = QdrantLoader(
                    target,
                    collection.name,
                    embedder,
                    on_error=skipped.add,
                    **storage.arguments(),
                    **batches.arguments(),
                    **updates.arguments(),
                    **errors.arguments(),
                )
                recorded.record(target, batches, id_field, reading.namespace)
                signals.stop(loader)
                reports = ReportFiles(loader, collection, errors.report_file)
                with display.show(loader, reports), with_remedy():
                    records = read_paths(paths, options=reading)
                    load_records = loader.load
                    if vectors is not None:
                        load_records = partial(loader.load_vectors, vectors=vectors)
                    report = load_records(records, prune=updates.scope)
            print_notes(report, pruning=bool(updates.scope))
            print_summary(report, collection, as_json=as_json)
            if report.stopped:
                target.close()
                signals.end_process()
    if not (report.seen or errors.allow_empty):
        fail_without_documents(paths, report)

"""`quern load`: load files into a collection."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    EMBEDDING_MODEL,
    Dimensions,
    EmbeddingModel,
    Json,
    ModelOptions,
)
from quernstone.cli.printing import print_json
from quernstone.errors import QuernstoneError
from quernstone_qdrant.cli.collections import StorageOptions
from quernstone_qdrant.cli.failures import LeftOut, check_writable, with_remedy
from quernstone_qdrant.cli.files import (
    FileOptions,
    describe_files,
    describe_skipped,
    describe_unfollowed,
)
from quernstone_qdrant.cli.options import AllowMismatch, CollectionOptions
from quernstone_qdrant.cli.progress import LoadDisplay, figures

if TYPE_CHECKING:
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.report import LoadReport

_SIGNALLED = 128
"""Exit codes of processes that a signal ended are this plus the signal's number, as in shells."""


@expand_options
def load(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            exists=True,
            help="Files and folders: .txt, .md, .markdown, .rst, .jsonl, .ndjson, .csv, .tsv, "
            ".parquet.",
        ),
    ],
    *,
    collection: CollectionOptions,
    files: FileOptions,
    chunk_size: Annotated[
        int, typer.Option(min=0, help="Maximum characters per chunk; 0 does not split texts.")
    ] = 1200,
    chunk_overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum characters repeated from the previous chunk. (default: a tenth of the "
            "chunk size)",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum chunks per write.")] = 2048,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to keep retrying a request to a server.")
    ] = 300.0,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="After loading, delete documents that are gone from these folders and files. "
            "Documents from elsewhere stay.",
        ),
    ] = False,
    prune_all: Annotated[
        bool,
        typer.Option(
            "--prune-all",
            help="After loading, delete every document that is not in these folders and files.",
        ),
    ] = False,
    replace_sources: Annotated[
        bool,
        typer.Option(
            "--replace-sources",
            help="Let documents replace those with the same id from other files and folders.",
        ),
    ] = False,
    skip_errors: Annotated[
        bool,
        typer.Option("--skip-errors", help="Report what cannot be read, skip it and continue."),
    ] = False,
    dead_letter: Annotated[
        Path | None,
        typer.Option(
            help="File for skipped records and the reasons; it can be loaded again. Implies "
            "--skip-errors."
        ),
    ] = None,
    allow_mismatch: AllowMismatch = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Succeed even if there are no documents.")
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write a JSON report to this file.")
    ] = None,
    as_json: Json = False,
    storage: StorageOptions,
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    options: ModelOptions,
) -> None:
    """Load files into a Qdrant collection; run it again to update it.

    Texts are split, embedded and written. Unchanged documents are skipped, so a second run adds
    nothing, and a run after a crash or Ctrl-C continues where the first one stopped.
    """
    from quernstone_qdrant.documents.deadletter import refuse_to_prune_by
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.sources import check_first_rows, count_records, read_paths
    from quernstone_qdrant.targets.index_report import STATUS_WORDS

    where, reading = collection.where, files.reading()
    if prune or prune_all:
        refuse_to_prune_by(paths)
    check_writable("--report", report_file)
    check_writable("--dead-letter", dead_letter)
    with with_remedy():
        check_first_rows(paths, reading, skip_errors=skip_errors or dead_letter is not None)
    with (
        LeftOut(dead_letter) as left_out,
        collection.open(create=True) as target,
        options.embedder(model, dimensions=dimensions) as embedder,
        LoadDisplay(count_records(paths, reading)) as display,
    ):
        loader = QdrantLoader(
            target,
            collection.name,
            embedder,
            preset=storage.preset,
            settings=storage.changes(),
            layout=storage.layout,
            hybrid=storage.hybrid,
            defer_index=storage.defer_index,
            index_timeout=storage.wait,
            chunk_size=chunk_size or None,
            chunk_overlap=chunk_overlap,
            batch_size=batch_size,
            patience=patience,
            replace_sources=replace_sources,
            skip_errors=skip_errors,
            dead_letter=dead_letter,
            allow_mismatch=allow_mismatch,
            on_error=left_out.add,
        )
        display.show(loader)
        records = read_paths(paths, options=reading)
        error = None
        try:
            with _stopped_by_signals(loader) as signals, with_remedy():
                loader.load(records, prune="collection" if prune_all else prune)
        except QuernstoneError as failure:
            error = failure
            raise
        finally:
            if report_file is not None:
                _write_report(report_file, loader, where, error)
    report = loader.report
    _print_notes(report, pruning=bool(prune or prune_all))
    if as_json:
        print_json({"collection": collection.name, "target": where, **dataclasses.asdict(report)})
    else:
        typer.echo(f"{collection.name} in {where}: {figures(report)}, {report.seconds:.1f} s")
        if collection.url is not None and report.points is not None:
            typer.echo(f"  {report.points:,} points, {STATUS_WORDS[report.status]}")
        typer.echo(f"  {describe_files(records.files)}")
    if report.stopped:
        typer.echo(
            "quern: stopped before the end; the documents counted above are stored, "
            "and the same command continues from there",
            err=True,
        )
        raise typer.Exit(_SIGNALLED + signals[0])
    if not (report.seen or allow_empty):
        skipped = describe_skipped(records.files)
        _fail_without_documents(paths, skipped)


def _fail_without_documents(paths: list[Path], skipped: str) -> None:
    typer.echo(
        f"quern: there are no documents in {', '.join(map(str, paths))}"
        f"{f' (skipped: {skipped})' if skipped else ''}; check the paths, or pass --allow-empty",
        err=True,
    )
    raise typer.Exit(1)


def _print_notes(report: LoadReport, *, pruning: bool) -> None:
    notes = [*report.notes]
    if report.ignored:
        ignored = ", ".join(report.ignored)
        notes.insert(0, f"this target does not support {ignored}; a Qdrant server does")
    if report.files is not None:
        notes += [f"{count:,} values: {what}" for what, count in report.files.values.items()]
    if pruning and report.failed:
        notes.append("nothing was pruned, because something was left out")
    elif pruning and report.files is not None and report.files.unfollowed:
        notes.append(f"nothing was pruned: {describe_unfollowed(report.files)}")
    for note in notes:
        typer.echo(f"quern: {note}", err=True)


@contextmanager
def _stopped_by_signals(loader: QdrantLoader) -> Iterator[list[int]]:
    """Stop the load cleanly on the first Ctrl-C or SIGTERM; the second one ends the process.

    Yields:
        The signals received.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        loader.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_report(
    path: Path, loader: QdrantLoader, where: str, error: QuernstoneError | None
) -> None:
    import orjson

    from quernstone_qdrant.targets.base import METADATA_KEY

    value = {
        "collection": loader.collection,
        "target": where,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **dataclasses.asdict(loader.report),
        "error": None if error is None else f"{type(error).__name__}: {error}",
        "provenance": loader.provenance.metadata()[METADATA_KEY],
    }
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

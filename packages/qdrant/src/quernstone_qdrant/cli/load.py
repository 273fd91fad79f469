"""`quern load`."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.options import (
    EMBEDDING_MODEL,
    BatchTokens,
    Device,
    Dialect,
    Dimensions,
    DtypeName,
    EmbeddingModel,
    Endpoint,
    Engine,
    open_embedder,
)
from quernstone.errors import QuernstoneError
from quernstone_qdrant.cli.collections import (
    Defer,
    Hybrid,
    Indexes,
    Language,
    LayoutOption,
    Prefix,
    PresetName,
    Wait,
    chosen_preset,
)
from quernstone_qdrant.cli.options import (
    AllowMismatch,
    ApiKey,
    Collection,
    Edge,
    Folder,
    Grpc,
    Json,
    Url,
    opened,
    print_json,
    target_name,
)
from quernstone_qdrant.cli.progress import LoadDisplay, figures

if TYPE_CHECKING:
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.report import LoadReport

_SIGNALLED = 128
"""Shells add the signal's number to it for the exit code of what a signal ended."""


def load(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            exists=True,
            help="Files and folders: .txt, .md, .markdown, .rst, .jsonl, .ndjson, .csv, .parquet.",
        ),
    ],
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    edge: Edge = None,
    api_key: ApiKey = None,
    grpc: Grpc = False,
    text_field: Annotated[
        str | None,
        typer.Option(help="Column of the text. (default: text, content, page_content, body ...)"),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="Column of a unique id. (default: the file's path and the row number)"),
    ] = None,
    chunk_size: Annotated[
        int, typer.Option(min=0, help="Most characters per chunk; 0 keeps every text whole.")
    ] = 1200,
    chunk_overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Most characters that a chunk repeats of the one before. (default: a tenth)",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most chunks per write.")] = 2048,
    patience: Annotated[
        float,
        typer.Option(min=0, help="Seconds for which a request to a server is repeated."),
    ] = 300.0,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Afterwards delete what is gone from these folders and files; points of other "
            "folders stay.",
        ),
    ] = False,
    prune_all: Annotated[
        bool,
        typer.Option(
            "--prune-all", help="Afterwards delete all that is not in these folders and files."
        ),
    ] = False,
    skip_errors: Annotated[
        bool,
        typer.Option("--skip-errors", help="Report what cannot be read, leave it out, and go on."),
    ] = False,
    dead_letter: Annotated[
        Path | None,
        typer.Option(
            help="File for what is left out, with the reason; it can be loaded again. Implies "
            "--skip-errors.",
            show_default=False,
        ),
    ] = None,
    allow_mismatch: AllowMismatch = False,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="File for the report, in JSON.", show_default=False),
    ] = None,
    as_json: Json = False,
    preset: PresetName = None,
    prefix: Prefix = None,
    layout: LayoutOption = None,
    hybrid: Hybrid = None,
    language: Language = None,
    indexes: Indexes = None,
    defer_index: Defer = "none",
    wait: Wait = None,
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    endpoint: Endpoint = None,
    dialect: Dialect = None,
    batch_tokens: BatchTokens = None,
) -> None:
    """Load files into a Qdrant collection; run it again to update it.

    Texts are split, embedded and written. What is there already, unchanged, is skipped, so a
    second run adds nothing and a run after a crash goes on where the first one stopped. So it does
    after Ctrl-C, which ends a load in order.
    """
    from quernstone_qdrant.documents.deadletter import refuse_to_prune_by
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.sources import count_records, read_paths

    where = target_name(path, url, edge)
    if prune or prune_all:
        refuse_to_prune_by(paths)
    with (
        opened(collection, where, url=url, edge=edge, api_key=api_key, prefer_grpc=grpc) as target,
        open_embedder(
            model,
            device=device,
            dtype=dtype,
            engine=engine,
            endpoint=endpoint,
            dialect=dialect,
            dimensions=dimensions,
            batch_tokens=batch_tokens,
        ) as embedder,
        LoadDisplay(count_records(paths)) as display,
    ):
        loader = QdrantLoader(
            target,
            collection,
            embedder,
            preset=chosen_preset(preset, prefix, language, indexes),
            layout=layout,
            hybrid=hybrid,
            defer_index=defer_index,
            index_timeout=wait,
            chunk_size=chunk_size or None,
            chunk_overlap=chunk_overlap,
            batch_size=batch_size,
            patience=patience,
            skip_errors=skip_errors,
            dead_letter=dead_letter,
            allow_mismatch=allow_mismatch,
            on_error=_warn,
        )
        display.show(loader)
        records = read_paths(paths, text_field=text_field, id_field=id_field)
        error = None
        try:
            with _stopped_by_signals(loader) as signals:
                loader.load(records, prune="collection" if prune_all else prune)
        except QuernstoneError as failure:
            error = failure
            raise
        finally:
            if report_file is not None:
                _write_report(report_file, loader, where, error)
    report = loader.report
    if report.ignored:
        typer.echo(f"quern: {_ignored(report)}", err=True)
    if (prune or prune_all) and report.failed:
        typer.echo("quern: nothing was pruned, because something was left out", err=True)
    if as_json:
        print_json({"collection": collection, "target": where, **dataclasses.asdict(report)})
    else:
        typer.echo(_summary(report, collection, where))
    if report.stopped:
        typer.echo(
            "quern: stopped before the end; what is counted above is confirmed, "
            "and the same command goes on from there",
            err=True,
        )
        raise typer.Exit(_SIGNALLED + signals[0])


def _ignored(report: LoadReport) -> str:
    return f"this target has no {', no '.join(report.ignored)}; a Qdrant server has"


def _warn(error: QuernstoneError) -> None:
    typer.echo(f"quern: left out: {' '.join(str(error).split())}", err=True)


@contextmanager
def _stopped_by_signals(loader: QdrantLoader) -> Iterator[list[int]]:
    """Let the first Ctrl-C or SIGTERM end the load in order; the second ends the process.

    Yields:
        The signals that came.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])
        loader.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_report(
    path: Path, loader: QdrantLoader, where: str, error: QuernstoneError | None
) -> None:
    import orjson

    from quernstone_qdrant.provenance import METADATA_KEY

    value = {
        "collection": loader.collection,
        "target": where,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **dataclasses.asdict(loader.report),
        "error": None if error is None else f"{type(error).__name__}: {error}",
        "provenance": loader.provenance.metadata()[METADATA_KEY],
    }
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _summary(report: LoadReport, collection: str, where: str) -> str:
    return f"{collection} in {where}: {figures(report)}, {report.seconds:.1f} s"

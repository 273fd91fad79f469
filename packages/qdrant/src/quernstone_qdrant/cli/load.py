"""`quern load`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.options import (
    EMBEDDING_MODEL,
    BatchTokens,
    Device,
    Dimensions,
    DtypeName,
    EmbeddingModel,
    Engine,
    on_terminal,
    open_embedder,
)
from quernstone.errors import QuernstoneError
from quernstone_qdrant.cli.options import (
    ApiKey,
    Collection,
    Edge,
    Folder,
    Json,
    Url,
    opened,
    print_json,
    target_name,
)

if TYPE_CHECKING:
    from quernstone_qdrant.loader import LoadReport


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
    batch_size: Annotated[int, typer.Option(min=1, help="Chunks per write.")] = 256,
    skip_errors: Annotated[
        bool,
        typer.Option("--skip-errors", help="Report what cannot be read, leave it out, and go on."),
    ] = False,
    as_json: Json = False,
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    batch_tokens: BatchTokens = None,
) -> None:
    """Load files into a Qdrant collection; run it again to update it.

    Texts are split, embedded and written. What is there already, unchanged, is skipped, so a
    second run adds nothing and a run after a crash goes on where the first one stopped.
    """
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.sources import read_paths

    where = target_name(path, url, edge)
    with (
        opened(collection, where, url=url, edge=edge, api_key=api_key) as target,
        open_embedder(
            model,
            device=device,
            dtype=dtype,
            engine=engine,
            dimensions=dimensions,
            batch_tokens=batch_tokens,
        ) as embedder,
        _load_progress() as progress,
    ):
        loader = QdrantLoader(
            target,
            collection,
            embedder,
            chunk_size=chunk_size or None,
            chunk_overlap=chunk_overlap,
            batch_size=batch_size,
            skip_errors=skip_errors,
            on_error=_warn,
            progress=progress,
        )
        report = loader.load(read_paths(paths, text_field=text_field, id_field=id_field))
    if as_json:
        print_json({"collection": collection, "target": where, **dataclasses.asdict(report)})
    else:
        typer.echo(_summary(report, collection, where))


def _warn(error: QuernstoneError) -> None:
    typer.echo(f"quern: left out: {' '.join(str(error).split())}", err=True)


@contextmanager
def _load_progress() -> Iterator[Callable[[LoadReport], None] | None]:
    """Show the figures on a terminal while the load runs; yield what to call with them."""
    if not on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # The console writes to the standard error of now: what `_warn` prints appears above the line.
    with Live(console=Console(stderr=True), redirect_stderr=True, transient=True) as live:
        live.update(Text("loading"))
        yield lambda report: live.update(Text(_figures(report)))


def _figures(report: LoadReport) -> str:
    rate = report.embedded / report.seconds if report.seconds else 0.0
    parts = [
        f"{report.seen:,} documents",
        f"{report.chunks:,} chunks",
        f"{report.embedded:,} embedded ({rate:,.0f}/s)",
        f"{report.skipped:,} unchanged",
    ]
    if report.removed:
        parts.append(f"{report.removed:,} removed")
    if report.failed:
        parts.append(f"{report.failed:,} failed")
    return ", ".join(parts)


def _summary(report: LoadReport, collection: str, where: str) -> str:
    return f"{collection} in {where}: {_figures(report)}, {report.seconds:.1f} s"

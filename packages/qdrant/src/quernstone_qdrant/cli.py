"""`quern load` and `quern search`.

`quern --help` imports this module, so what is heavy is imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.options import (
    EMBEDDING_MODEL,
    RERANKING_MODEL,
    BatchTokens,
    Device,
    Dimensions,
    DtypeName,
    EmbeddingModel,
    Engine,
    Instruction,
    on_terminal,
    open_embedder,
    open_reranker,
)
from quernstone.errors import ConfigError, QuernstoneError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from quernstone_qdrant.loader import LoadReport
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.searcher import SearchHit

DEFAULT_FOLDER = "qdrant-data"
_TINY = "tiny"
_SNIPPET = 140

_PANEL = "Qdrant"
Collection = Annotated[
    str, typer.Option("--collection", "-c", help="Name of the collection.", rich_help_panel=_PANEL)
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--path",
        help=f"Folder of an embedded Qdrant. (default: ./{DEFAULT_FOLDER})",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Address of a Qdrant server, instead of a folder.",
        rich_help_panel=_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="QDRANT_API_KEY",
        help="Key of the server; better given in the environment.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


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

    where = _target(path, url)
    with (
        _connected(where, url, api_key) as client,
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
            client,
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
        _print_json({"collection": collection, "target": where, **dataclasses.asdict(report)})
    else:
        typer.echo(_summary(report, collection, where))


def search(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.")],
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most hits to show.")] = 10,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Hits that the reranker reads. (default: 4 for each wanted, at least 20)"
        ),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Put the hits in order with a reranker.")
    ] = True,
    as_json: Json = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="QUERN_MODEL",
            help="Embedding model. (default: the one that made the collection)",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None,
    rerank_model: Annotated[
        str | None,
        typer.Option(
            envvar="QUERN_RERANK_MODEL",
            help=f"Reranking model. (default: {RERANKING_MODEL}; tiny with tiny)",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None,
    instruction: Instruction = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    batch_tokens: BatchTokens = None,
) -> None:
    """Search a collection by meaning and rerank the hits.

    The column `was` holds a hit's place before the reranking.
    """
    from quernstone_qdrant.searcher import QdrantSearcher

    where = _target(path, url)
    if url is None and not Path(where).is_dir():
        raise ConfigError(f"there is no Qdrant folder {where!r}; load documents into it first")
    settings = {"device": device, "dtype": dtype, "engine": engine}
    with _connected(where, url, api_key) as client:
        made = _provenance(client, collection)
        chosen = model or (made.model if made else EMBEDDING_MODEL)
        with open_embedder(
            chosen,
            dimensions=made.dimensions if made else None,
            batch_tokens=batch_tokens,
            **settings,
        ) as embedder:
            if rerank:
                default = _TINY if chosen == _TINY else RERANKING_MODEL
                with open_reranker(
                    rerank_model or default, batch_tokens=batch_tokens, **settings
                ) as reranker:
                    searcher = QdrantSearcher(client, collection, embedder, reranker)
                    hits = searcher.search(
                        question, limit, candidates=candidates, instruction=instruction
                    )
            else:
                searcher = QdrantSearcher(client, collection, embedder)
                hits = searcher.search(question, limit, instruction=instruction)
    if as_json:
        _print_json([dataclasses.asdict(hit) for hit in hits])
    else:
        _print_table(hits, question)


def _target(path: str | None, url: str | None) -> str:
    if path is not None and url is not None:
        raise ConfigError(
            f"both a folder ({path}) and a server ({url}) are given; use one of --path and --url"
        )
    return url or path or DEFAULT_FOLDER


@contextmanager
def _connected(where: str, url: str | None, api_key: str | None) -> Iterator[QdrantClient]:
    from quernstone_qdrant.target import connect

    client = connect(url=url, api_key=api_key) if url else connect(path=where)
    try:
        yield client
    finally:
        client.close()


def _provenance(client: QdrantClient, collection: str) -> Provenance | None:
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.target import Target

    return Provenance.read(Target(client, collection).info())


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


def _print_json(value: object) -> None:
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _print_table(hits: list[SearchHit], question: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    reranked = any(hit.rerank_score is not None for hit in hits)
    table = Table(title=Text(question), title_justify="left", title_style="bold")
    table.add_column("rank", justify="right")
    if reranked:
        table.add_column("was", justify="right")
        table.add_column("P(yes)", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("source", overflow="fold", max_width=26)
    table.add_column("text", ratio=1)
    for rank, hit in enumerate(hits, start=1):
        cells = [str(rank)]
        if reranked:
            cells += [_moved(rank, hit.dense_rank), f"{hit.rerank_score:.3f}"]
        cells += [f"{hit.score:.3f}", _source(hit), _snippet(hit.text)]
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(table if hits else Text("nothing found"))


def _moved(rank: int, was: int) -> str:
    arrow = "↑" if rank < was else "↓" if rank > was else " "
    return f"{was} {arrow}"


def _source(hit: SearchHit) -> str:
    source = str(hit.metadata.get("source", hit.key))
    if "row" in hit.metadata:
        return f"{source}#{hit.metadata['row']}"
    headings = hit.metadata.get("headings")
    return f"{source} › {headings[-1]}" if isinstance(headings, list) and headings else source


def _snippet(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SNIPPET else f"{flat[: _SNIPPET - 1]}…"

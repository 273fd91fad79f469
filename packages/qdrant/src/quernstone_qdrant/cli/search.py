"""`quern search`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quernstone.cli.options import (
    EMBEDDING_MODEL,
    RERANKING_MODEL,
    BatchTokens,
    Device,
    Dialect,
    DtypeName,
    Endpoint,
    Engine,
    Instruction,
    RenderedBy,
    open_embedder,
    open_reranker,
)
from quernstone.errors import ConfigError
from quernstone_qdrant.cli.options import (
    AllowMismatch,
    ApiKey,
    Collection,
    Edge,
    Folder,
    Grpc,
    Json,
    Url,
    existing_target_name,
    opened,
    print_json,
)

if TYPE_CHECKING:
    from quernstone_qdrant.searcher import SearchHit

_TINY = "tiny"
_SNIPPET = 140


def search(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.")],
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    edge: Edge = None,
    api_key: ApiKey = None,
    grpc: Grpc = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most hits to show.")] = 10,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Hits that the reranker reads. (default: 4 for each wanted, at least 20)"
        ),
    ] = None,
    hybrid: Annotated[
        bool | None,
        typer.Option(
            "--hybrid/--no-hybrid",
            help="Search by words, too. (default: if the collection was loaded with --hybrid)",
            show_default=False,
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="Only what has this value in its metadata; may be repeated.",
            show_default=False,
        ),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Put the hits in order with a reranker.")
    ] = True,
    allow_mismatch: AllowMismatch = False,
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
    endpoint: Endpoint = None,
    dialect: Dialect = None,
    rerank_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of a server that runs the reranking model. (default: it runs here)",
            rich_help_panel="Model on a server",
            show_default=False,
        ),
    ] = None,
    rerank_dialect: Annotated[
        str | None,
        typer.Option(
            help="What that server speaks.",
            rich_help_panel="Model on a server",
            show_default=False,
        ),
    ] = None,
    template: RenderedBy = None,
    batch_tokens: BatchTokens = None,
) -> None:
    """Search a collection by meaning and rerank the hits.

    The column `was` holds a hit's place before the reranking.
    """
    from quernstone_qdrant.documents.layouts import layout_of
    from quernstone_qdrant.filters import text_filter
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.searcher import QdrantSearcher

    conditions = [_condition(text) for text in filters or ()]
    where = existing_target_name(path, url, edge)
    here: dict[str, Any] = {"device": device, "dtype": dtype, "batch_tokens": batch_tokens}
    # of two models one may run on a server, which decides these things itself
    mixed = rerank and (endpoint is None) != (rerank_endpoint is None)
    there = {"device": "auto", "dtype": "auto"} if mixed else here

    def find(searcher: QdrantSearcher) -> list[SearchHit]:
        layout = layout_of(searcher.provenance.settings.layout)
        return searcher.search(
            question,
            limit,
            hybrid=hybrid,
            query_filter=text_filter(conditions, layout) if conditions else None,
            candidates=candidates,
            instruction=instruction,
        )

    with opened(collection, where, url=url, edge=edge, api_key=api_key, prefer_grpc=grpc) as target:
        made = Provenance.read(target.state())
        chosen = model or (made.model if made else EMBEDDING_MODEL)
        with open_embedder(
            chosen,
            dimensions=made.dimensions if made else None,
            engine=engine,
            endpoint=endpoint,
            dialect=dialect,
            **(here if endpoint is None else there),
        ) as embedder:
            if rerank:
                default = _TINY if chosen == _TINY else RERANKING_MODEL
                with open_reranker(
                    rerank_model or default,
                    engine="auto" if mixed else engine,
                    endpoint=rerank_endpoint,
                    dialect=rerank_dialect,
                    template=template,
                    **(here if rerank_endpoint is None else there),
                ) as reranker:
                    hits = find(
                        QdrantSearcher(
                            target, collection, embedder, reranker, allow_mismatch=allow_mismatch
                        )
                    )
            else:
                hits = find(
                    QdrantSearcher(target, collection, embedder, allow_mismatch=allow_mismatch)
                )
    if as_json:
        print_json([dataclasses.asdict(hit) for hit in hits])
    else:
        _print_table(hits, question)


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--filter {text!r} is not of the form FIELD=VALUE")
    return name, value


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
            cells += [_moved(rank, hit.retrieval_rank), f"{hit.rerank_score:.3f}"]
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

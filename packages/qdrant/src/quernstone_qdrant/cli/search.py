"""`quern search`: search a collection and rerank the hits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    RERANKING_MODEL,
    Instruction,
    Json,
    RerankerOptions,
    model_option,
    server_option,
)
from quernstone.cli.printing import print_json
from quernstone.errors import ConfigError
from quernstone_qdrant.cli.options import (
    AllowMismatch,
    CollectionModel,
    CollectionOptions,
    open_embedder,
)
from quernstone_qdrant.cli.search_options import RankingOptions

if TYPE_CHECKING:
    from quernstone_qdrant.searching.hits import SearchHit

SortKey: TypeAlias = Literal["was", "rerank", "fused", "cosine"]
_TINY = "tiny"
_SNIPPET = 140


@expand_options
def search(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to search for.")],
    *,
    collection: CollectionOptions,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Maximum number of hits.")
    ] = 10,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Hits to rerank. (default: 4 times the limit, at least 20)"),
    ] = None,
    hybrid: Annotated[
        bool | None,
        typer.Option(
            "--hybrid/--no-hybrid",
            help="Also search by words. (default: if the collection was loaded with --hybrid)",
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="Only show hits with this value in their metadata. Numbers and dates also take "
            ">=, >, <= and <. May be repeated.",
        ),
    ] = None,
    ranking: RankingOptions,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Order the hits with a reranker.")
    ] = True,
    sort: Annotated[
        SortKey | None,
        typer.Option(
            help="Sort the hits by this column. (default: the reranker's order, else that of the "
            "search)"
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Print the whole texts in columns separated by tabs."),
    ] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to keep retrying a request to a server.")
    ] = 5.0,
    allow_mismatch: AllowMismatch = False,
    as_json: Json = False,
    model: CollectionModel = None,
    rerank_model: Annotated[
        str | None,
        model_option(
            envvar="QUERN_RERANK_MODEL",
            help=f"Reranking model. (default: {RERANKING_MODEL}; tiny with tiny)",
        ),
    ] = None,
    instruction: Instruction = None,
    options: RerankerOptions,
    rerank_endpoint: Annotated[
        str | None,
        server_option(
            metavar="URL",
            help="Address of a server for the reranking model. (default: run it here)",
        ),
    ] = None,
    rerank_dialect: Annotated[
        str | None, server_option(help="API of the reranking server.")
    ] = None,
) -> None:
    """Search a collection by meaning and rerank the hits.

    The column `was` shows the rank of a hit before reranking, `fused` the sum of the reciprocal
    ranks by meaning and by words.
    """
    from quernstone_qdrant.checks.fields import missing_fields
    from quernstone_qdrant.filters import parse_condition, text_filter
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import Retry
    from quernstone_qdrant.searcher import QdrantSearcher

    conditions = [parse_condition(text) for text in filters or ()]
    # If only one of the two models runs here, these options apply to that one.
    one_remote = rerank and (options.endpoint is None) != (rerank_endpoint is None)
    remote = replace(options, device="auto", dtype="auto", batch_tokens=None)
    embedding = remote if one_remote and options.endpoint else options
    reranking = remote if one_remote and rerank_endpoint else options
    reranking = replace(
        reranking,
        endpoint=rerank_endpoint,
        dialect=rerank_dialect,
        engine="auto" if one_remote else options.engine,
    )
    with ExitStack() as stack:
        target = stack.enter_context(collection.open())
        provenance = Provenance.read(Retry(patience).call(target.state))
        embedder = stack.enter_context(
            open_embedder(
                embedding,
                model,
                None,
                collection.name,
                provenance,
                allow_mismatch=allow_mismatch,
            )
        )
        reranker = None
        if rerank:
            default = _TINY if embedder.model == _TINY else RERANKING_MODEL
            reranker = stack.enter_context(reranking.reranker(rerank_model or default))
        searcher = QdrantSearcher(
            target,
            collection.name,
            embedder,
            reranker,
            allow_mismatch=allow_mismatch,
            patience=patience,
            **ranking.reading(),
        )
        layout = searcher.layout
        hits = searcher.search(
            question,
            limit,
            hybrid=hybrid,
            query_filter=text_filter(conditions, layout) if conditions else None,
            candidates=candidates,
            instruction=instruction,
            **ranking.chosen(),
        )
        unknown = [] if hits else missing_fields(target, [one[0] for one in conditions], layout)
    for name in unknown:
        typer.echo(f"quern: no document has the field {name!r} of --filter", err=True)
    if sort is not None:
        hits = _sorted(hits, sort)
    if as_json:
        print_json([_shown(hit) for hit in hits])
    elif plain:
        _print_plain(hits)
    else:
        _print_table(hits, question)


def _shown(hit: SearchHit) -> dict[str, Any]:
    """Return the fields of a hit, except the payload: text and metadata say the same."""
    return {name: value for name, value in asdict(hit).items() if name != "payload"}


def _print_table(hits: list[SearchHit], question: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(question), title_justify="left", title_style="bold")
    columns = _columns(hits)
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("source", overflow="fold", max_width=26)
    table.add_column("text", ratio=1)
    for number, hit in enumerate(hits):
        cells = [cells[number] for cells in columns.values()]
        table.add_row(*map(Text, [*cells, _source(hit), _snippet(hit.text)]))
    console = Console()
    console.print(table if hits else Text("nothing found"))


def _print_plain(hits: list[SearchHit]) -> None:
    columns = _columns(hits)
    columns["source"] = [_source(hit) for hit in hits]
    columns["text"] = [" ".join(hit.text.split()) for hit in hits]
    for row in (columns, *zip(*columns.values(), strict=True)):
        typer.echo("\t".join(" ".join(cell.split()) for cell in row))


def _columns(hits: list[SearchHit]) -> dict[str, list[str]]:
    """Return the columns of ranks and scores that these hits have."""
    columns = {"rank": [str(rank) for rank in range(1, len(hits) + 1)]}
    if any(hit.rerank_score is not None for hit in hits):
        columns["was"] = [_moved(rank, hit.retrieval_rank) for rank, hit in enumerate(hits, 1)]
        columns["P(yes)"] = [f"{hit.rerank_score:.3f}" for hit in hits]
    if any(hit.boosted_score is not None for hit in hits):
        columns["boosted"] = [f"{hit.boosted_score:.3f}" for hit in hits]
    if any(hit.group is not None for hit in hits):
        columns["group"] = [str(hit.group) for hit in hits]
    if any(hit.fused_score is not None for hit in hits):
        columns["fused"] = [f"{hit.fused_score:.4f}" for hit in hits]
    columns["cosine"] = [f"{hit.score:.3f}" for hit in hits]
    return columns


def _sorted(hits: list[SearchHit], key: SortKey) -> list[SearchHit]:
    """Return the hits, the best by a column first.

    Raises:
        ConfigError: The hits do not have this column.
    """
    scores: dict[SortKey, Callable[[SearchHit], float | None]] = {
        "was": lambda hit: -hit.retrieval_rank,
        "rerank": lambda hit: hit.rerank_score,
        "fused": lambda hit: hit.fused_score,
        "cosine": lambda hit: hit.score,
    }
    keyed = [(scores[key](hit), hit) for hit in hits]
    if any(score is None for score, _ in keyed):
        need = "--rerank" if key == "rerank" else "--hybrid"
        raise ConfigError(f"--sort {key} needs {need}: these hits have no such score")
    return [hit for _, hit in sorted(keyed, key=lambda pair: -(pair[0] or 0.0))]


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

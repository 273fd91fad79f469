"""`quern search`: search a collection and rerank the hits."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    RERANKING_MODEL,
    Instruction,
    Json,
    RerankerOptions,
    model_option,
    on_terminal,
    server_option,
)
from quernstone.errors import ConfigError
from quernstone.progress import progress_bar
from quernstone_qdrant.cli.hits import HitPrinter, SortKey, Style
from quernstone_qdrant.cli.options import (
    AllowMismatch,
    CollectionModel,
    CollectionOptions,
    open_embedder,
)
from quernstone_qdrant.cli.search_options import RankingOptions

_TINY = "tiny"


@expand_options
def search(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="What to search for.")
    ] = None,
    *,
    collection: CollectionOptions,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answer the questions of this file, one per line; - is standard input.",
        ),
    ] = None,
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
    if (question is None) == (queries is None):
        raise ConfigError("give one QUESTION, or a file with one per line as --queries FILE")
    from quernstone_qdrant.checks.fields import missing_fields
    from quernstone_qdrant.cli.questions import QuestionFile
    from quernstone_qdrant.filters import parse_condition, text_filter
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import Retry
    from quernstone_qdrant.searcher import QdrantSearcher

    file = None if queries is None else QuestionFile(queries)
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
        asked = {
            "hybrid": hybrid,
            "query_filter": text_filter(conditions, layout) if conditions else None,
            "candidates": candidates,
            "instruction": instruction,
            **ranking.chosen(),
        }
        if file is not None:
            answers, total = file.answers(searcher, limit, asked), file.count()
        elif question is not None:
            answers, total = iter([(question, searcher.search(question, limit, **asked))]), 1
        style: Style = "json" if as_json else "plain" if plain else "table"
        printer = HitPrinter(style=style, several=file is not None, sort=sort)
        fields = [one[0] for one in conditions]
        # Hits on the same terminal are progress enough.
        shown = file is not None and not sys.stdout.isatty() and (on_terminal() or not as_json)
        with progress_bar("searching", total, show=shown) as advance:
            for text, hits in answers:
                if not hits:
                    for name in missing_fields(target, fields, layout):
                        typer.echo(
                            f"quern: no document has the field {name!r} of --filter", err=True
                        )
                    fields = []
                printer.print(text, hits)
                advance(1)

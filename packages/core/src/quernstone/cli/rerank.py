"""`quern rerank`: order the documents of each query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    RERANKING_MODEL,
    Instruction,
    RerankerOptions,
    RerankingModel,
    TextOptions,
    on_terminal,
    output_option,
)
from quernstone.encoding.json_lines import dump_json
from quernstone.errors import InputError, SourceError

if TYPE_CHECKING:
    from quernstone import RankedDocument, Reranker
    from quernstone.cli.rows import RowInput

_PAIRS = 1024
"""Pairs reranked together, so that rows with few documents share batches."""


@dataclass(frozen=True, slots=True)
class _Request:
    line: int
    fields: dict[str, Any]
    """The row without its documents, copied to the result."""
    query: str
    documents: list[str]


@expand_options
def rerank(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help='Rows {"query": ..., "documents": [...]} of JSONL or Parquet; or with --query '
            "documents, as JSONL, CSV, Parquet or plain lines. - is standard input.",
        ),
    ],
    *,
    output: Annotated[Path, output_option(help="A .jsonl file; - is standard output.")] = Path("-"),
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="Rerank every row of INPUT for this query.")
    ] = None,
    top_n: Annotated[
        int | None, typer.Option("--top-n", "-n", min=1, help="Results per query. (default: all)")
    ] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="Add the text of each document to its result.")
    ] = False,
    texts: TextOptions,
    input_format: Annotated[
        str, typer.Option(help="Format of the input: auto, jsonl, csv, parquet, lines.")
    ] = "auto",
    model: RerankingModel = RERANKING_MODEL,
    instruction: Instruction = None,
    options: RerankerOptions,
) -> None:
    """Order documents by how well they answer a query.

    In each row, `results` replaces `documents`. It lists the best document first, each with its
    `index` in the row and its `score`, the probability (0 to 1) that it answers the query.
    """
    from quernstone.cli.outputs import check_output, open_output
    from quernstone.cli.rows import RowInput
    from quernstone.progress import progress_bar
    from quernstone.tables import TableOptions

    check_output(output)
    rows = RowInput(source, input_format, TableOptions(**texts.arguments()))
    requests = _requests(rows) if query is None else _one_request(rows, query)
    with (
        options.reranker(model, instruction=instruction) as reranker,
        open_output(output) as file,
        progress_bar("reranking", None, show=on_terminal()) as advance,
    ):
        for group in _groups(requests):
            ranked = _ranked(reranker, group, top_n, rows.name)
            for request, found in zip(group, ranked, strict=True):
                results = _results(request, found, with_text=with_text)
                row = {**request.fields, "query": request.query, "results": results}
                file.write(dump_json(row))
            advance(len(group))


def _requests(source: RowInput) -> Iterator[_Request]:
    for number, row in source.rows():
        query, documents = row.get("query"), row.get("documents")
        if not isinstance(query, str) or not isinstance(documents, list):
            has = ", ".join(f"`{field}`" for field in row) or "nothing"
            raise SourceError(
                source.name,
                f"expected a string `query` and a list `documents`; the row has {has} "
                "(if rows have no query, pass it with --query)",
                number,
            )
        texts = [
            document if isinstance(document, str) else _text(source, number, document)
            for document in documents
        ]
        fields = {name: value for name, value in row.items() if name != "documents"}
        yield _Request(number, fields, query, texts)


def _text(source: RowInput, number: int, document: object) -> str:
    if not isinstance(document, dict):
        found = type(document).__name__
        reason = f"expected a string or an object as document, got {found}"
        raise SourceError(source.name, reason, number)
    return source.text(number, document)


def _one_request(source: RowInput, query: str) -> Iterator[_Request]:
    yield _Request(1, {}, query, [row.text for row in source.texts()])


def _groups(requests: Iterator[_Request]) -> Iterator[list[_Request]]:
    group: list[_Request] = []
    pairs = 0
    for request in requests:
        group.append(request)
        pairs += len(request.documents)
        if pairs >= _PAIRS:
            yield group
            group, pairs = [], 0
    if group:
        yield group


def _ranked(
    reranker: Reranker, group: list[_Request], top_n: int | None, source: str
) -> list[list[RankedDocument]]:
    queries, documents = [r.query for r in group], [r.documents for r in group]
    try:
        return reranker.rerank_many(queries, documents, top_n)
    except InputError as error:
        reason = str(error).removeprefix(f"input {error.index}: ")
        raise SourceError(source, reason, group[error.index].line) from error


def _results(
    request: _Request, ranked: list[RankedDocument], *, with_text: bool
) -> list[dict[str, Any]]:
    return [
        {"index": found.index, "score": found.score}
        | ({"text": request.documents[found.index]} if with_text else {})
        for found in ranked
    ]

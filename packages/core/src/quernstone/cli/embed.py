"""`quern embed`: texts in, vectors out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
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
    Instruction,
    on_terminal,
    open_embedder,
)
from quernstone.errors import InputError

if TYPE_CHECKING:
    from quernstone import Embedder
    from quernstone.cli.rows import Row
    from quernstone.types import Float32Array

_DOCUMENTS = 256
_QUERIES = 1024


def embed(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="JSONL or plain lines; - is standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A .jsonl, .parquet or .npy file; - is JSONL on standard output."
        ),
    ] = Path("-"),
    queries: Annotated[
        bool, typer.Option("--queries", help="Embed as queries, behind the instruction.")
    ] = False,
    text_field: Annotated[
        str | None,
        typer.Option(help="The text's name in JSONL. (default: text, content, page_content, body)"),
    ] = None,
    id_field: Annotated[
        str | None, typer.Option(help="Copy this field into a column of the Parquet file.")
    ] = None,
    input_format: Annotated[str, typer.Option(help="auto, jsonl, lines.")] = "auto",
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    instruction: Instruction = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    endpoint: Endpoint = None,
    dialect: Dialect = None,
    batch_tokens: BatchTokens = None,
) -> None:
    """Embed the lines of a file or a pipe.

    Rows come out in the order they went in, with `embedding` added; Parquet has the columns
    `text` and `embedding`, .npy the vectors alone. Memory stays bounded however long the input.
    """
    from quernstone.cli.outputs import open_output, vector_writer
    from quernstone.cli.rows import RowInput
    from quernstone.progress import progress_bar

    make_writer = vector_writer(output)
    rows = RowInput(source, input_format, text_field, id_field)
    with (
        open_embedder(
            model,
            device=device,
            dtype=dtype,
            engine=engine,
            endpoint=endpoint,
            dialect=dialect,
            dimensions=dimensions,
            instruction=instruction,
            batch_tokens=batch_tokens,
        ) as embedder,
        open_output(output) as file,
        progress_bar("embedding", None, show=on_terminal()) as advance,
    ):
        writer = make_writer(file, embedder.dimensions, id_field)
        for some, vectors in _with_vectors(embedder, rows.texts(), queries=queries):
            writer.write(some, vectors)
            advance(len(some))
        writer.finish()


def _with_vectors(
    embedder: Embedder, rows: Iterator[Row], *, queries: bool
) -> Iterator[tuple[list[Row], Float32Array]]:
    """Yield rows with their vectors, some at a time and in order."""
    return _queries(embedder, rows) if queries else _documents(embedder, rows)


def _documents(embedder: Embedder, rows: Iterator[Row]) -> Iterator[tuple[list[Row], Float32Array]]:
    import numpy as np

    waiting: deque[Row] = deque()
    finished = 0

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield row.text

    vectors = embedder.stream(texts())
    try:
        while some := list(islice(vectors, _DOCUMENTS)):
            yield [waiting.popleft() for _ in some], np.stack(some)
            finished += len(some)
    except InputError as error:
        raise waiting[error.index - finished].error(error) from error


def _queries(embedder: Embedder, rows: Iterator[Row]) -> Iterator[tuple[list[Row], Float32Array]]:
    while some := list(islice(rows, _QUERIES)):
        try:
            vectors = embedder.embed_queries([row.text for row in some])
        except InputError as error:
            raise some[error.index].error(error) from error
        yield some, vectors

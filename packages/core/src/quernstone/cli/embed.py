"""`quern embed`: embed the texts of a file or a pipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    EMBEDDING_MODEL,
    Dimensions,
    EmbeddingModel,
    Instruction,
    ModelOptions,
    TextOptions,
    on_terminal,
    output_option,
)
from quernstone.errors import InputError

if TYPE_CHECKING:
    from quernstone import Embedder
    from quernstone.cli.rows import TextRow
    from quernstone.types import Float32Array

_Batch: TypeAlias = "tuple[list[TextRow], Float32Array]"

_DOCUMENTS = 256
_QUERIES = 1024


@expand_options
def embed(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="JSONL, CSV, Parquet or plain lines, also .gz and .zst; - is standard input.",
        ),
    ],
    *,
    output: Annotated[
        Path, output_option(help="A .jsonl, .parquet or .npy file; - is JSONL on standard output.")
    ] = Path("-"),
    queries: Annotated[
        bool, typer.Option("--queries", help="Embed as queries, with the instruction.")
    ] = False,
    texts: TextOptions,
    id_field: Annotated[
        str | None, typer.Option(help="Copy this field into a column of the Parquet file.")
    ] = None,
    input_format: Annotated[
        str, typer.Option(help="Format of the input: auto, jsonl, csv, parquet, lines.")
    ] = "auto",
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    instruction: Instruction = None,
    options: ModelOptions,
) -> None:
    """Embed the rows or lines of a file or a pipe.

    Rows are written in the order they were read, with `embedding` added. Parquet files have the
    columns `text` and `embedding`, .npy files only the vectors. Memory use does not grow with the
    size of the input.
    """
    from quernstone.cli.outputs import open_output, vector_writer
    from quernstone.cli.rows import RowInput
    from quernstone.progress import progress_bar
    from quernstone.tables import TableOptions

    make_writer = vector_writer(output)
    rows = RowInput(source, input_format, TableOptions(**texts.arguments()), id_field)
    with (
        options.embedder(model, dimensions=dimensions, instruction=instruction) as embedder,
        open_output(output) as file,
        progress_bar("embedding", None, show=on_terminal()) as advance,
    ):
        writer = make_writer(file, embedder.dimensions, id_field)
        embed_rows = _queries if queries else _documents
        for batch, vectors in embed_rows(embedder, rows.texts()):
            writer.write(batch, vectors)
            advance(len(batch))
        writer.finish()


def _documents(
    embedder: Embedder, rows: Iterator[TextRow]
) -> Iterator[tuple[list[TextRow], Float32Array]]:
    import numpy as np

    pending: deque[TextRow] = deque()
    finished = 0

    def texts() -> Iterator[str]:
        for row in rows:
            pending.append(row)
            yield row.text

    vectors = embedder.stream(texts())
    try:
        while batch := list(islice(vectors, _DOCUMENTS)):
            yield [pending.popleft() for _ in batch], np.stack(batch)
            finished += len(batch)
    except InputError as error:
        raise pending[error.index - finished].error(error) from error


def _queries(
    embedder: Embedder, rows: Iterator[TextRow]
) -> Iterator[tuple[list[TextRow], Float32Array]]:
    while batch := list(islice(rows, _QUERIES)):
        try:
            vectors = embedder.embed_queries([row.text for row in batch])
        except InputError as error:
            raise batch[error.index].error(error) from error
        yield batch, vectors

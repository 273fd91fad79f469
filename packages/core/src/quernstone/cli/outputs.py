"""Output files of `embed` and `rerank`, which appear only when they are complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from quernstone.cli.rows import TextRow
from quernstone.encoding.json_lines import dump_json
from quernstone.errors import ConfigError, MissingExtraError
from quernstone.types import Float32Array


class VectorWriter(Protocol):
    """Writes rows and their vectors to an open file."""

    def write(self, rows: Sequence[TextRow], vectors: Float32Array) -> None:
        """Write rows. Shape of `vectors`: (len(rows), dimensions)."""
        ...

    def finish(self) -> None:
        """Complete the file after the last row."""
        ...


class JsonlWriter:
    """Writes JSON Lines: the fields of each row, with `embedding` added."""

    def __init__(self, file: BinaryIO, dimensions: int, id_field: str | None) -> None:  # noqa: ARG002
        self._file = file

    def write(self, rows: Sequence[TextRow], vectors: Float32Array) -> None:
        """See `VectorWriter`."""
        for row, vector in zip(rows, vectors, strict=True):
            self._file.write(dump_json({**row.fields, "embedding": vector}))

    def finish(self) -> None:
        """See `VectorWriter`."""


class NpyWriter:
    """Writes one float32 array in numpy's format. Shape: (rows, dimensions)."""

    def __init__(self, file: BinaryIO, dimensions: int, id_field: str | None) -> None:  # noqa: ARG002
        self._file, self._dimensions, self._rows = file, dimensions, 0
        self._data = self._header()

    def write(self, rows: Sequence[TextRow], vectors: Float32Array) -> None:
        """See `VectorWriter`."""
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self._rows += len(rows)

    def finish(self) -> None:
        """Write the header again, with the final number of rows."""
        end = self._file.tell()
        self._file.seek(0)
        # numpy pads the header, so the number of rows does not change its length
        if self._header() != self._data:
            raise RuntimeError("the length of the .npy header changed with the number of rows")
        self._file.seek(end)

    def _header(self) -> int:
        shape = (self._rows, self._dimensions)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        return self._file.tell()


class ParquetWriter:
    """Writes Parquet: `text`, `embedding` (a fixed-size list of float32) and optionally an id."""

    def __init__(self, file: BinaryIO, dimensions: int, id_field: str | None) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "parquet") from error
        self._arrow, self._dimensions, self._id_field = pa, dimensions, id_field
        columns = [("text", pa.string()), ("embedding", pa.list_(pa.float32(), dimensions))]
        if id_field is not None:
            columns.insert(0, (id_field, pa.string()))
        self._schema = pa.schema(columns)
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, rows: Sequence[TextRow], vectors: Float32Array) -> None:
        """See `VectorWriter`."""
        pa = self._arrow
        numbers = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        columns = [
            pa.array([row.text for row in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(numbers, self._dimensions),
        ]
        if self._id_field is not None:
            columns.insert(
                0, pa.array([str(row.fields[self._id_field]) for row in rows], pa.string())
            )
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def finish(self) -> None:
        """Write the footer."""
        self._writer.close()


_WRITERS: dict[str, Callable[[BinaryIO, int, str | None], VectorWriter]] = {
    ".jsonl": JsonlWriter,
    ".ndjson": JsonlWriter,
    ".npy": NpyWriter,
    ".parquet": ParquetWriter,
}


def vector_writer(path: Path) -> Callable[[BinaryIO, int, str | None], VectorWriter]:
    """Return the writer for a file name; `-` is JSON Lines.

    Raises:
        ConfigError: The extension is unknown, or the folder does not exist.
    """
    check_output(path)
    if str(path) == "-":
        return JsonlWriter
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ConfigError(f"--output {path}: unknown extension; use {', '.join(_WRITERS)}, or -")
    return writer


def check_output(path: Path) -> None:
    """Check that a file can be created, before a model is loaded.

    Raises:
        ConfigError: The folder does not exist, or the path is a folder.
    """
    if str(path) != "-" and (path.is_dir() or not path.absolute().parent.is_dir()):
        reason = "is a folder" if path.is_dir() else f"the folder `{path.parent}` does not exist"
        raise ConfigError(f"--output {path}: {reason}")


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; `-` is standard output.

    The file is written under a temporary name, and renamed if the block succeeds.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

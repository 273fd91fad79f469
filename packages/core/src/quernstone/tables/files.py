"""Open files and standard input, decompress them, and detect their format."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, Literal, cast

from quernstone.errors import MissingExtraError

Format = Literal["jsonl", "csv", "parquet", "lines"]

FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Formats of tables by suffix."""
COMPRESSED = (".gz", ".zst")
"""Suffixes of compressed files, after the suffix of their format."""
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def suffix_of(path: PurePath) -> str:
    """Return the suffix that names the format of a file, in lower case, such as `.csv`."""
    suffix = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_standard_input(path: PurePath) -> bool:
    """Return True for `-`."""
    return str(path) == "-"


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading, decompressed; `-` is standard input.

    Raises:
        OSError: The file cannot be opened.
        MissingExtraError: A `.zst` file needs pyarrow.
    """
    if is_standard_input(path):
        piped: io.BufferedReader = io.BufferedReader(
            cast("io.RawIOBase", _Unclosed(sys.stdin.buffer))
        )
        start = piped.peek(4)
        compression = next((s for magic, s in _MAGIC.items() if start.startswith(magic)), "")
        yield _decompressed(piped, compression)
        return
    with path.open("rb") as file:
        yield _decompressed(file, path.suffix.lower())


def _decompressed(file: io.BufferedReader, suffix: str) -> io.BufferedReader:
    if suffix == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)))
    if suffix == ".zst":
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError("pyarrow", "parquet") from error
        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    return file


@contextmanager
def seekable(source: Path | BinaryIO) -> Iterator[Path | BinaryIO]:
    """Yield a plain file as it is, and a temporary copy of a pipe or a compressed file."""
    if isinstance(source, Path):
        if not is_pipe(source) and source.suffix.lower() not in COMPRESSED:
            yield source
            return
        with open_file(source) as file, seekable(file) as copy:
            yield copy
            return
    with tempfile.TemporaryFile() as copied:
        shutil.copyfileobj(source, copied, 1 << 20)
        copied.seek(0)
        yield cast("BinaryIO", copied)


def count_lines(path: Path) -> int:
    """Count the lines of a file that are not blank.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with open_file(path) as lines:
            return sum(1 for line in lines if line.strip())
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from error


class _Unclosed(io.RawIOBase):
    """Standard input, which stays open when its reader is closed.

    The file below its buffer is read: a thread that waits in the buffer holds its lock, for which
    Python aborts when the process exits.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = getattr(file, "raw", file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return cast("io.FileIO", self._file).readinto(buffer)


def is_pipe(path: Path) -> bool:
    """Return True if a file can be read only once."""
    return is_standard_input(path) or (path.exists() and not path.is_file())

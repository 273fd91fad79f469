"""Readers of JSONL, CSV and Parquet files.

Each reader yields records, and a `SourceError` in place of an invalid row. Raising it would end the
generator; the caller decides whether the load continues.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from quernstone_qdrant.documents.deadletter import MARK, read_dead_letter
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.arrow import batch_rows
from quernstone_qdrant.sources.csv_rows import csv_rows
from quernstone_qdrant.sources.rows import RowReader, undecodable_field

_PARQUET_ROWS = 512
_BOM = b"\xef\xbb\xbf"


def read_jsonl(path: Path, reader: RowReader) -> Iterator[Record | SourceError]:
    """Read one JSON object per line, skipping blank lines. Rows are numbered by line.

    Lines of a dead-letter file yield the original records.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if not line.strip():
                continue
            try:
                if reader.options.encoding != "utf-8":
                    line = line.decode(reader.options.encoding).encode()
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = f"is not valid JSON: {error.msg} at column {error.colno}"
                yield SourceError(reader.path, reason, number)
                continue
            except UnicodeDecodeError as error:
                reason = f"is not valid {reader.options.encoding.upper()}: {error.reason}"
                yield SourceError(reader.path, reason, number)
                continue
            if isinstance(row, dict) and MARK in row:
                yield read_dead_letter(row, reader.path, number)
            elif isinstance(row, dict):
                yield reader.record(row, number)
            else:
                found = type(row).__name__
                yield SourceError(reader.path, f"is not a JSON object but {found}", number)


def read_csv(path: Path, reader: RowReader) -> Iterator[Record | SourceError]:
    """Read a CSV file with a header. Rows are numbered from 1 after the header.

    Raises:
        SourceError: The header is damaged, or a column is missing.
    """
    # Bytes that cannot be decoded become surrogates, so that only their row is lost.
    encoding = "utf-8-sig" if reader.options.encoding == "utf-8" else reader.options.encoding
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        lines = iter(file)
        first = next(lines, "")
        delimiter = reader.options.delimiter or _delimiter(path, first)
        rows = csv_rows(chain([first] if first else [], lines), delimiter)
        header = next(rows, None)
        if header is None:
            return
        if isinstance(header, csv.Error):
            raise SourceError(reader.path, f"its header is not valid CSV: {header}")
        undecodable = undecodable_field({name: name for name in header}, reader.options.encoding)
        if undecodable is not None:
            raise SourceError(reader.path, f"its header is not readable: {undecodable}")
        reader.check_columns(header)
        number = 0
        for values in rows:
            if isinstance(values, csv.Error):
                number += 1
                yield SourceError(reader.path, f"is not valid CSV: {values}", number)
            elif values:
                number += 1
                if len(values) == len(header):
                    yield reader.record(dict(zip(header, values, strict=True)), number)
                else:
                    reason = f"has {len(values)} values for {len(header)} columns"
                    yield SourceError(reader.path, reason, number)


def read_parquet(path: Path, reader: RowReader) -> Iterator[Record | SourceError]:
    """Read a Parquet file in small batches. Rows are numbered from 1.

    Page checksums are verified if the file has them; without them, damage that decompresses to
    valid text is not detected.

    Raises:
        SourceError: The file is damaged, or a column is missing.
    """
    number = 0
    try:
        # Without pre-buffering, pages are read on demand instead of whole row groups.
        with pq.ParquetFile(
            path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
        ) as file:
            reader.check_columns(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch_rows(batch):
                    number += 1
                    if isinstance(row, ValueError):
                        yield SourceError(reader.path, str(row), number)
                    else:
                        yield reader.record(row, number)
    except (pa.ArrowException, OSError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(reader.path, f"cannot be read as Parquet{where}: {reason}") from error


def _delimiter(path: Path, header: str) -> str:
    """Return the delimiter of a file: a comma, unless the header has none."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return "," if "," in header else max(";\t|,", key=header.count)


def count_lines(path: Path) -> int:
    """Count the lines of a file that are not blank."""
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def count_parquet(path: Path) -> int:
    """Return the number of rows that a Parquet file's footer records.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error

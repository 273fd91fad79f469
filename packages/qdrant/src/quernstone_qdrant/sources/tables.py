"""Readers of JSONL, CSV and Parquet files.

Each reader yields records, and a `SourceError` in place of an invalid row. Raising it would end the
generator; the caller decides whether the load continues.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from quernstone_qdrant.documents.deadletter import MARK, read_dead_letter
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.rows import RowReader

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
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = f"is not valid JSON: {error.msg} at column {error.colno}"
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
        SourceError: The file is not valid UTF-8 or CSV, or a column is missing.
    """
    # The default limit of 128 KiB is too short for long texts.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        number = 0
        try:
            header = next(rows, None)
            if header is None:
                return
            reader.check_columns(header)
            for values in rows:
                if not values:
                    continue
                number += 1
                if len(values) == len(header):
                    yield reader.record(dict(zip(header, values, strict=True)), number)
                else:
                    reason = f"has {len(values)} values for {len(header)} columns"
                    yield SourceError(reader.path, reason, number)
        except csv.Error as error:
            raise SourceError(reader.path, f"is not valid CSV: {error}", number + 1) from error
        except UnicodeDecodeError as error:
            raise SourceError(
                reader.path, f"is not valid UTF-8 ({error.reason}); convert the file", number + 1
            ) from error


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
                for row in batch.to_pylist():
                    number += 1
                    yield reader.record(row, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(reader.path, f"cannot be read as Parquet{where}: {reason}") from error


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

"""Readers of JSONL, CSV and Parquet.

Each yields records, and a `SourceError` in the place of a row that is none: an exception would
end the generator, and the caller decides whether the load goes on.
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
    """Read one JSON object per line. Blank lines are passed over; rows are numbered by line.

    Lines of a dead-letter file become the records that they were.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = f"not JSON: {error.msg} at column {error.colno}"
                yield SourceError(reader.path, reason, number)
                continue
            if isinstance(row, dict) and MARK in row:
                yield read_dead_letter(row, reader.path, number)
            elif isinstance(row, dict):
                yield reader.record(row, number)
            else:
                found = type(row).__name__
                yield SourceError(reader.path, f"not a JSON object but a {found}", number)


def read_csv(path: Path, reader: RowReader) -> Iterator[Record | SourceError]:
    """Read a CSV file with a header. Rows are numbered from 1 after the header.

    Raises:
        SourceError: The file is not UTF-8, not CSV, or lacks a column.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KiB is one long page
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
                    reason = f"{len(values)} values for {len(header)} columns"
                    yield SourceError(reader.path, reason, number)
        except csv.Error as error:
            raise SourceError(reader.path, f"not CSV: {error}", number + 1) from error
        except UnicodeDecodeError as error:
            raise SourceError(reader.path, f"not UTF-8 ({error.reason})", number + 1) from error


def read_parquet(path: Path, reader: RowReader) -> Iterator[Record | SourceError]:
    """Read a Parquet file, a few hundred rows at a time. Rows are numbered from 1.

    Pages are checked against their checksums where the file has them. Where it has none, damage
    that decompresses to other valid text cannot be seen.

    Raises:
        SourceError: The file is damaged, or lacks a column.
    """
    number = 0
    try:
        # Without pre-buffering pages are read as they are needed, not whole row groups.
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
    """Count the lines of a file that are not empty."""
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def count_parquet(path: Path) -> int:
    """Count the rows of a Parquet file, which its end says.

    Raises:
        OSError: It cannot be read, or is damaged.
    """
    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error

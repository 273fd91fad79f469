"""Readers of JSONL, CSV and Parquet files.

Each reader yields records, and a `SourceError` in place of an invalid row. Raising it would end the
generator; the caller decides whether the load continues.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from quernstone.encoding.json_lines import parse_json
from quernstone_qdrant.documents.deadletter import MARK, read_dead_letter
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.arrow import batch_rows
from quernstone_qdrant.sources.csv_rows import csv_rows
from quernstone_qdrant.sources.rows import RowReader, undecodable_field
from quernstone_qdrant.sources.types import CONVERTERS, convert

_PARQUET_ROWS = 512
_SAMPLE = 1000
_EXACT_DIGITS = 15
"""Decimals of this many digits are exact as floats: printed again, they are the same."""
_LEADING_ZERO = re.compile(r"[-+]?0\d")
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
                row, replaced = parse_json(line)
                if replaced:
                    reader.values["NaN or Infinity, stored as null"] += replaced
            except json.JSONDecodeError as error:
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
        sample = list(islice(rows, _SAMPLE)) if reader.options.infer_types else []
        types = {**_inferred(header, sample, reader), **reader.options.types}
        number = 0
        for values in chain(sample, rows):
            if isinstance(values, csv.Error):
                number += 1
                yield SourceError(reader.path, f"is not valid CSV: {values}", number)
            elif values:
                number += 1
                if len(values) == len(header):
                    row: dict[str, Any] = dict(zip(header, values, strict=True))
                    try:
                        for name, kind in types.items():
                            row[name] = convert(row[name], kind)
                    except ValueError as error:
                        hint = f"`{name}` {error} (`--types {name}=str` keeps it as text)"
                        yield SourceError(reader.path, hint, number)
                    else:
                        yield reader.record(row, number)
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
            schema = file.schema_arrow
            reader.check_columns(schema.names)
            decimals = [f.name for f in schema if pa.types.is_decimal(f.type)]
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch_rows(batch):
                    number += 1
                    if isinstance(row, ValueError):
                        yield SourceError(reader.path, str(row), number)
                    else:
                        for name in decimals:
                            row[name] = _number(row[name], name, reader)
                        yield reader.record(row, number)
    except (pa.ArrowException, OSError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(reader.path, f"cannot be read as Parquet{where}: {reason}") from error


def _number(value: Decimal | None, column: str, reader: RowReader) -> float | str | None:
    """Return a decimal as a float if it has at most 15 digits, else as a string."""
    if value is None:
        return None
    if len(value.normalize().as_tuple().digits) <= _EXACT_DIGITS and math.isfinite(value):
        return float(value)
    reader.values[f"decimals of more than 15 digits in `{column}`, stored as strings"] += 1
    return str(value)


def _inferred(
    header: list[str], sample: list[list[str] | csv.Error], reader: RowReader
) -> dict[str, str]:
    """Return the type of each column whose values in the sample all have it."""
    rows = [row for row in sample if not isinstance(row, csv.Error) and len(row) == len(header)]
    types = {}
    for place, name in enumerate(header):
        values = [row[place] for row in rows if row[place]]
        if not values or name in (reader.text_column, reader.options.id_field):
            continue
        types[name] = next(kind for kind in CONVERTERS if _all_are(values, kind))
    return types


def _all_are(values: list[str], kind: str) -> bool:
    # `007` is an identifier, not a number.
    if kind in ("int", "float") and any(_LEADING_ZERO.match(value) for value in values):
        return False
    try:
        for value in values:
            convert(value, kind)
    except ValueError:
        return False
    return True


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

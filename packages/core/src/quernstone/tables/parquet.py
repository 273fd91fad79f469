"""Read Parquet files and Arrow batches row by row."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from quernstone.errors import SourceError
from quernstone.tables.files import seekable

_ROWS = 512
_EXACT_DIGITS = 15
"""Decimals of this many digits are exact as floats: printed again, they are the same."""
_CONVERSION_ERRORS = (pa.ArrowException, ValueError, OverflowError)


def parquet_rows(
    source: Path | BinaryIO,
    name: str,
    check: Callable[[list[str]], Collection[str]],
    values: Counter[str],
) -> Iterator[dict[str, Any] | ValueError]:
    """Yield the rows of a file in small batches, and an error in place of an unreadable one.

    Page checksums are verified if the file has them; without them, damage that decompresses to
    valid text is not detected. The arguments are those of `TableReader`.

    Raises:
        SourceError: The file is damaged.
    """
    number = 0
    try:
        # Without pre-buffering, pages are read on demand instead of whole row groups.
        with (
            seekable(source) as readable,
            pq.ParquetFile(
                readable, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            ) as file,
        ):
            schema = file.schema_arrow
            check(schema.names)
            decimals = [f.name for f in schema if pa.types.is_decimal(f.type)]
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch_rows(batch):
                    number += 1
                    if isinstance(row, dict):
                        for column in decimals:
                            row[column] = _number(row[column], column, values)
                    yield row
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(name, f"cannot be read as Parquet{where}: {reason}") from error


def count_parquet(path: Path) -> int:
    """Return the number of rows that a Parquet file's footer records.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | ValueError]:
    """Yield the rows of a batch, and an error in place of each row that Python cannot hold.

    Among such values are dates after the year 9999, nanoseconds without pandas, and damaged UTF-8.
    """
    try:
        yield from batch.to_pylist()
    except _CONVERSION_ERRORS:
        names = batch.schema.names
        columns = [[_value(scalar) for scalar in column] for column in batch.columns]
        for values in zip(*columns, strict=True):
            row = dict(zip(names, values, strict=True))
            bad = next(
                (
                    f"`{name}` cannot be converted: {value.error}"
                    for name, value in row.items()
                    if isinstance(value, _Unreadable)
                ),
                None,
            )
            yield row if bad is None else ValueError(bad)


class _Unreadable(NamedTuple):
    error: str


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except _CONVERSION_ERRORS as error:
        return _Unreadable(f"{scalar.type} {' '.join(str(error).split())}")


def _number(value: Decimal | None, column: str, values: Counter[str]) -> float | str | None:
    """Return a decimal as a float if it has at most 15 digits, else as a string."""
    if value is None:
        return None
    if len(value.normalize().as_tuple().digits) <= _EXACT_DIGITS and math.isfinite(value):
        return float(value)
    values[f"decimals of more than 15 digits in `{column}`, stored as strings"] += 1
    return str(value)

"""Iterate the rows of Arrow tables, data sets and readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds

from quernstone.errors import ConfigError
from quernstone_qdrant.errors import RecordError

_ROWS = 512
_CONVERSION_ERRORS = (pa.ArrowException, ValueError, OverflowError)


def as_rows(records: Any) -> Iterable[object]:
    """Iterate the rows of a table-like object, as mappings; return other iterables unchanged.

    Args:
        records: A `pyarrow.Table`, `RecordBatch`, `RecordBatchReader`, `dataset.Dataset` or
            `dataset.Scanner`; a data set of `datasets`, streamed or not; or an object that exports
            an Arrow stream, such as a pandas or Polars data frame.

    Raises:
        ConfigError: `records` is a single record or a path.
    """
    if isinstance(records, (str, bytes, Mapping, PathLike)):
        raise ConfigError(
            f"`records` has type {type(records).__name__}; pass an iterable of records, or "
            "`read_paths(...)` for files and folders"
        )
    if isinstance(records, ds.Dataset):
        return _rows(records.scanner(batch_size=_ROWS).to_batches())
    if isinstance(records, ds.Scanner):
        return _rows(records.to_batches())
    if isinstance(records, pa.RecordBatch):
        return _rows([records])
    if hasattr(records, "with_format") and hasattr(records, "iter"):  # datasets.Dataset
        tables = records.with_format("arrow").iter(batch_size=_ROWS)
        return _rows(batch for table in tables for batch in table.to_batches())
    if hasattr(records, "__arrow_c_stream__"):
        return _rows(pa.RecordBatchReader.from_stream(records))
    return records  # type: ignore[no-any-return]  # any iterable


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


def _rows(batches: Iterable[Any]) -> Iterator[object]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for row in batch_rows(batch.slice(start, _ROWS)):
                yield RecordError(str(number), str(row)) if isinstance(row, ValueError) else row
                number += 1

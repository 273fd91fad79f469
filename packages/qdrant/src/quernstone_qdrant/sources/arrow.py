"""Iterate the rows of Arrow tables, data sets and readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from quernstone.errors import ConfigError
from quernstone.tables.parquet import batch_rows
from quernstone_qdrant.errors import RecordError

_ROWS = 512


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


def _rows(batches: Iterable[Any]) -> Iterator[object]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for row in batch_rows(batch.slice(start, _ROWS)):
                yield RecordError(str(number), str(row)) if isinstance(row, ValueError) else row
                number += 1

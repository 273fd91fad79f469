"""Iterate the rows of Arrow tables, data sets and readers."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from quernstone.errors import ConfigError
from quernstone.tables.parquet import batch_rows
from quernstone_qdrant.documents.records import is_model
from quernstone_qdrant.errors import RecordError

_ROWS = 512
_INDEX = re.compile(r"__index_level_\d+__")
"""Column in which pandas stores an index without a name."""
_COLLECT = "; an async iterable has to be collected first: `[each async for each in records]`"


def as_rows(records: Any) -> Iterable[object]:
    """Iterate the rows of a table-like object, as mappings; return other iterables unchanged.

    Args:
        records: A `pyarrow.Table`, `RecordBatch`, `RecordBatchReader`, `dataset.Dataset` or
            `dataset.Scanner`; a data set of `datasets`, streamed or not; or an object that exports
            an Arrow stream, such as a pandas or Polars data frame.

    Raises:
        ConfigError: `records` is a single record, a path or an async iterable, or a data frame
            that Arrow cannot represent.
    """
    if _is_single(records):
        asynchronous = hasattr(records, "__aiter__")
        raise ConfigError(
            f"`records` has type {type(records).__name__}; pass an iterable of records, or "
            f"`read_paths(...)` for files and folders{_COLLECT if asynchronous else ''}"
        )
    if isinstance(records, (pa.Array, pa.ChunkedArray)):
        return (value.as_py() for value in records)
    if isinstance(records, ds.Dataset):
        return _rows(records.scanner(batch_size=_ROWS).to_batches())
    if isinstance(records, ds.Scanner):
        return _rows(records.to_batches())
    if isinstance(records, pa.RecordBatch):
        return _rows([records])
    if hasattr(records, "with_format") and hasattr(records, "iter"):  # datasets.Dataset
        tables = records.with_format("arrow").iter(batch_size=_ROWS)
        return _rows(batch for table in tables for batch in table.to_batches())
    if hasattr(records, "__arrow_c_stream__") and not hasattr(records, "dtype"):
        return _rows(_stream(records))
    return records  # type: ignore[no-any-return]  # any iterable, also a series


def _is_single(records: Any) -> bool:
    if isinstance(records, (str, bytes, Mapping, PathLike)):
        return True
    if is_model(records):  # iterates its own fields, unless a subclass changes that
        return type(records).__iter__ is sys.modules["pydantic"].BaseModel.__iter__
    tables = ("__iter__", "__getitem__", "__arrow_c_stream__", "to_batches")
    return not any(hasattr(records, name) for name in tables)


def _stream(frame: Any) -> pa.RecordBatchReader:
    try:
        reader = pa.RecordBatchReader.from_stream(frame)
    except (ValueError, pa.ArrowTypeError) as error:
        reason = ", ".join(map(str, error.args))
        raise ConfigError(
            f"the {type(frame).__name__} cannot be converted to Arrow: {reason}; give its columns "
            "unique names and each column one type, or pass its rows as mappings"
        ) from error
    index = [name for name in reader.schema.names if _INDEX.fullmatch(name)]
    if index:
        warnings.warn(
            f"the index of the {type(frame).__name__} becomes the metadata field {index[0]!r}, and "
            "part of the key of each row without an id: call `reset_index(drop=True)` before, or "
            "name the index to keep it",
            stacklevel=4,
        )
    return reader


def _rows(batches: Iterable[Any]) -> Iterator[object]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for row in batch_rows(batch.slice(start, _ROWS)):
                yield RecordError(str(number), str(row)) if isinstance(row, ValueError) else row
                number += 1

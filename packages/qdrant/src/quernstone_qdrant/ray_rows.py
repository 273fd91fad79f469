"""Rows between the stages of a Ray load: pickled batches, or the error of an earlier stage."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
from ray.exceptions import RayTaskError

from quernstone.errors import QuernstoneError
from quernstone_qdrant.loading.pipeline import Batch

COLUMN = "batches"
"""The only column of the rows."""


def result_or_error(work: Callable[[], object]) -> pa.Table:
    """Pack the result of a stage, or its error, which the driver then raises.

    Ray Data would wrap an error raised in the stage, and lose the original.
    """
    try:
        return packed(work())
    except QuernstoneError as error:
        return packed(error)


def packed(value: object) -> pa.Table:
    """Return a row with a pickled value."""
    column = pa.array([pickle.dumps(value)], type=pa.large_binary())
    return pa.table({COLUMN: column})


def unpacked(row: pa.Table) -> list[Batch]:
    """Unpack batches, or raise the error that an earlier stage packed instead."""
    value: list[Batch] | QuernstoneError = pickle.loads(row[COLUMN][0].as_py())
    if isinstance(value, QuernstoneError):
        raise value
    return value


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the original error of a worker instead of the `RayTaskError` around it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, QuernstoneError):
            raise error.cause from error
        raise

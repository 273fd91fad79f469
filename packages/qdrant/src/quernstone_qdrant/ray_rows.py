"""Rows between the stages of a Ray load: pickled batches, or the error of an earlier stage."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
from ray.exceptions import RayTaskError

from quernstone.errors import QuernstoneError
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.report import LoadReport

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
def original_errors() -> Iterator[None]:
    """Raise the original error of a worker instead of the `RayTaskError` around it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, QuernstoneError):
            raise error.cause from error
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The figures of one group of documents that was written."""

    seen: int
    chunks: int
    embedded: int
    skipped: int
    unconfirmed: int
    replaced: int
    removed: int
    failures: tuple[QuernstoneError, ...]

    @classmethod
    def of(cls, batches: list[Batch]) -> GroupResult:
        """Sum up written batches."""
        return cls(
            seen=sum(batch.seen for batch in batches),
            chunks=sum(batch.chunks for batch in batches),
            embedded=sum(len(batch.points) for batch in batches),
            skipped=sum(batch.skipped for batch in batches),
            unconfirmed=sum(batch.unconfirmed for batch in batches),
            replaced=sum(batch.replaced for batch in batches),
            removed=sum(len(batch.stale) for batch in batches),
            failures=tuple(failure.error for batch in batches for failure in batch.failures),
        )

    def added_to(self, report: LoadReport, seconds: float) -> LoadReport:
        """Return `report` with this group added. `seconds` is the time since the load began."""
        return replace(
            report,
            seen=report.seen + self.seen,
            chunks=report.chunks + self.chunks,
            embedded=report.embedded + self.embedded,
            skipped=report.skipped + self.skipped,
            unconfirmed=report.unconfirmed + self.unconfirmed,
            replaced=report.replaced + self.replaced,
            removed=report.removed + self.removed,
            failed=report.failed + len(self.failures),
            seconds=seconds,
        )

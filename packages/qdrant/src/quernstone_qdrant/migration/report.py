"""Reports of migrations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from quernstone_qdrant.migration.comparison import Comparison
from quernstone_qdrant.migration.counts import PassCounts
from quernstone_qdrant.retry import Retry

Phase = Literal["filling", "verifying", "switching", "late", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """The figures of a migration, finished or still running."""

    collection: str
    """The name that programs use."""
    old: str
    """Name of the collection of the old model, after this run."""
    new: str
    """Name of the collection of the new model, after this run."""
    vector: str | None = None
    """Name of the vector of the new model, if the migration is in place; `old` and `new` are the
    same collection then."""
    phase: Phase = "filling"
    switched: bool = False
    """True if `collection` leads to the new collection, or the collection records the new model."""
    passes: int = 0
    """Passes over both collections."""
    points: int = 0
    """Points of the old collection in the last pass."""
    embedded: int = 0
    """Points whose text was embedded, in all passes."""
    reused: int = 0
    """Points whose vector was copied, because model and text are the same."""
    unchanged: int = 0
    """Points that the last pass found unchanged."""
    deleted: int = 0
    """Points deleted from the new collection because they were deleted from the old one."""
    left_out: int = 0
    """Points of the last pass without a text, or that cannot be embedded."""
    changed: int = 0
    """Points of the last pass that were changed after their last load; they are migrated as is."""
    conflicts: int = 0
    """Points that were changed in both collections after the switch. The new one's stay."""
    problems: tuple[str, ...] = ()
    """Descriptions of the first points that were left out."""
    notes: tuple[str, ...] = ()
    """Properties of the old collection that were not kept, in words."""
    comparison: Comparison | None = None
    retries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPlan:
    """The plan of a migration, estimated from a sample of the points."""

    collection: str
    old: str
    new: str
    how: str
    """How the collection is migrated and switched, in words."""
    old_model: str
    """Model of the old collection; `unknown` if another program created it."""
    new_model: str
    points: int
    embedded: int
    """Estimated number of points to embed; the others keep their vectors."""
    dimensions: int
    memory_bytes: int
    """Estimated memory of the new collection's vectors and graph."""
    disk_bytes: int
    """Estimated disk space of the new collection, in addition to that of the old one."""
    seconds: float
    """Estimated time to embed, at the rate of a sample."""
    notes: tuple[str, ...] = ()


class RunningReport:
    """The report of a migration that runs.

    Args:
        collection: The name that programs use.
        retry: Policy for failed requests, which counts the retries.
        progress: Called with each change.
    """

    def __init__(
        self, collection: str, retry: Retry, progress: Callable[[MigrationReport], None]
    ) -> None:
        self.retry, self._progress, self._started = retry, progress, time.monotonic()
        self.report = MigrationReport(collection=collection, old="", new="")

    def restart(self) -> None:
        """Begin the report of another run."""
        self._started = time.monotonic()
        self.report = MigrationReport(collection=self.report.collection, old="", new="")

    def update(self, **changes: Any) -> None:
        """Change fields of the report."""
        self.report = replace(
            self.report,
            retries=self.retry.retries,
            seconds=time.monotonic() - self._started,
            **changes,
        )
        self._progress(self.report)

    def count(self, counts: PassCounts) -> None:
        """Add a pass that ended."""
        report = self.report
        self.update(
            passes=report.passes + 1,
            points=counts.points,
            embedded=report.embedded + counts.embedded,
            reused=report.reused + counts.reused,
            unchanged=counts.unchanged,
            deleted=report.deleted + counts.deleted,
            left_out=counts.left_out,
            changed=counts.changed,
            conflicts=counts.conflicts,
            problems=tuple(counts.problems),
        )

    def show(self, counts: PassCounts) -> None:
        """Show the progress of a pass that runs."""
        before = self.report
        self.count(counts)
        self.report = before

    def note(self, note: str) -> None:
        """Add a note."""
        self.update(notes=(*self.report.notes, note))

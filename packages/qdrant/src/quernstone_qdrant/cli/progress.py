"""The progress of a load in figures: what is done, the rate, and the time left."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.report import Depths, LoadReport

_RATE_SECONDS = 60.0
"""Seconds over which rates are averaged: a resumed load skips chunks much faster than it embeds."""


class WatchedLoad(Protocol):
    """A load whose progress is shown: that of a `QdrantLoader`, or a dry run."""

    @property
    def collection(self) -> str:
        """Name of the collection."""

    @property
    def provenance(self) -> Provenance:
        """Provenance of the collection."""

    @property
    def report(self) -> LoadReport:
        """The figures so far."""

    @property
    def depths(self) -> Depths:
        """The number of batches at each stage."""


@dataclass(frozen=True)
class Snapshot:
    """The progress of a load at one moment."""

    done: float
    """Records that are loaded; not whole while a long document is divided between batches."""
    total: int | None
    """Number of records; None if unknown."""
    chunks: int
    failed: int
    chunk_rate: float
    """Chunks per second, over the last minute."""
    seconds_left: float | None
    """None if unknown."""

    @property
    def percent(self) -> float | None:
        """Percentage of the records that are loaded; None if their number is unknown."""
        if self.total is None:
            return None
        return 100.0 * min(1.0, self.done / self.total) if self.total else 100.0

    def line(self, *, always_failed: bool = True) -> str:
        """Describe the progress in one line; leave out "0 failed" unless `always_failed`."""
        done = f"{int(self.done):,}"
        if self.total is None:
            parts = [f"{done} documents", f"{self.chunks:,} chunks"]
        else:
            parts = [f"{int(self.percent or 0.0)}% {done} of {self.total:,}"]
        parts.append(f"{self.chunk_rate:,.0f} chunks/s")
        if self.seconds_left is not None:
            parts.append(f"{_clock(self.seconds_left)} left")
        if self.failed or always_failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)


class ProgressTracker:
    """The progress of a load, from snapshots of its report.

    Args:
        total: Number of records; None if unknown.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._samples: deque[tuple[float, float, int]] = deque()
        self._lock = threading.Lock()

    def snapshot(self, report: LoadReport, now: float | None = None) -> Snapshot:
        """Return the progress at this moment (`now`, in seconds of a monotonic clock)."""
        now = time.monotonic() if now is None else now
        done = report.seen - report.unread
        with self._lock:
            self._samples.append((now, done, report.chunks))
            while len(self._samples) > 1 and now - self._samples[1][0] >= _RATE_SECONDS:
                self._samples.popleft()
            then, done_then, chunks_then = self._samples[0]
        seconds = now - then
        left = None
        if self._total is not None and done > done_then:
            left = max(0.0, self._total - done) * seconds / (done - done_then)
        return Snapshot(
            done=done,
            total=self._total,
            chunks=report.chunks,
            failed=report.failed,
            chunk_rate=(report.chunks - chunks_then) / seconds if seconds else 0.0,
            seconds_left=left,
        )


def _clock(seconds: float) -> str:
    """Format a duration as hours:minutes:seconds, or minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(report: LoadReport) -> str:
    """Format the figures of a report in one line."""
    rate = report.embedded / report.seconds if report.seconds else 0.0
    parts = [
        f"{report.seen:,} documents",
        f"{report.chunks:,} chunks",
        f"{report.embedded:,} embedded ({rate:,.0f}/s)",
        f"{report.skipped:,} unchanged",
    ]
    for name in ("unconfirmed", "replaced", "removed", "pruned", "failed", "retries"):
        count = getattr(report, name)
        if count:
            parts.append(f"{count:,} {name}")
    return ", ".join(parts)

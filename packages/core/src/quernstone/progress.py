"""Progress of long calls: a bar on a terminal, otherwise a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 30.0
"""Seconds between two lines where standard error is not a terminal."""


@contextmanager
def progress_bar(
    description: str, total: int | None, *, show: bool
) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error while the block runs: a bar, or lines if not a terminal.

    Args:
        description: Title of the bar.
        total: Number of inputs; None if unknown.
        show: False shows nothing, and yields a function that does nothing.

    Yields:
        A function to call with the number of inputs finished since the last call.
    """
    if not show:
        yield lambda _count: None
        return
    # Imported on use: rich's progress module is slow to import and rarely needed.
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        lines = _Lines(description, total)
        yield lines
        lines.print()
        return
    numbers = progress.MofNCompleteColumn()
    times = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
    columns = "{task.description}", progress.BarColumn(), numbers, *times
    # rich would print on standard error what is meant for a pipe or a file
    redirect = sys.stdout.isatty()
    with progress.Progress(*columns, console=console, redirect_stdout=redirect) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """Prints a line with the count and the rate every 30 seconds, and at the end."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total, self._done = description, total, 0
        self._started = self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self.print()

    def print(self) -> None:
        """Print the count so far."""
        self._last = time.monotonic()
        rate = self._done / max(self._last - self._started, 1e-9)
        of = f" of {self._total:,} ({self._done / self._total:.0%})" if self._total else ""
        left = (self._total - self._done) / rate if self._total and rate else 0.0
        remaining = f", {left / 60:.0f} minutes left" if left > 0 else ""
        sys.stderr.write(f"{self._description}: {self._done:,}{of}, {rate:,.1f}/s{remaining}\n")
        sys.stderr.flush()

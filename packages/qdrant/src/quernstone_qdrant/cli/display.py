"""Show a running load: a bar on a terminal, lines in a pipe, and report files."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from quernstone.cli.options import on_terminal
from quernstone_qdrant.cli.progress import ProgressTracker, WatchedLoad

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text

    from quernstone_qdrant.cli.load_report import ReportFiles

_REPORT_SECONDS = 5.0
"""Seconds between two versions of a report file."""
_TICK_SECONDS = 0.25
_MIN_BAR = 4
_WIDE = 120
"""Minimum width of a terminal, in columns, for showing the queues of the stages."""


class LoadDisplay:
    """A display of a running load, which also keeps its report files up to date.

    On a terminal it draws a progress bar. Otherwise it prints a line every few seconds.

    Args:
        total: Number of records; None if unknown.
        every: Seconds between two lines if standard error is not a terminal; 0 prints none.
    """

    def __init__(self, total: int | None, *, every: float) -> None:
        self._every = every
        self._tracker = ProgressTracker(total)
        self._total = total
        self._loader: WatchedLoad | None = None
        self._bar: Progress | None = self._make_bar() if on_terminal() else None

    @contextmanager
    def show(self, loader: WatchedLoad, files: ReportFiles) -> Iterator[None]:
        """Show the progress of a loader inside the block, and write its report at the end."""
        self._loader = loader
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(loader, files, ended), daemon=True)
        thread.start()
        error = None
        try:
            yield
        except BaseException as failure:
            error = failure
            raise
        finally:
            ended.set()
            thread.join()
            files.finish(self._tracker.snapshot(loader.report), error)

    def _watch(self, loader: WatchedLoad, files: ReportFiles, ended: threading.Event) -> None:
        """Print lines and write the report files until the load ends."""
        printed = time.monotonic()
        reported = -math.inf
        while not ended.wait(_TICK_SECONDS):
            now, snapshot = time.monotonic(), self._tracker.snapshot(loader.report)
            if now - reported >= _REPORT_SECONDS:
                reported = now
                files.update(snapshot)
            if self._bar is None and self._every and now - printed >= self._every:
                printed = now
                typer.echo(f"quern: {snapshot.line()}{_indexing(loader)}", err=True)

    def _make_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn
        from rich.table import Column
        from rich.text import Text

        display = self

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                """Draw the current figures (called several times a second)."""
                return Text(display._figures(task))

        # Created now, so that it uses the current standard error: warnings appear above the bar.
        return Progress(
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=_MIN_BAR)),
            Figures(table_column=Column(no_wrap=True, overflow="ellipsis")),
            expand=True,
            console=Console(stderr=True),
            transient=True,
            redirect_stderr=True,
        )

    def _figures(self, task: Task) -> str:
        loader = self._loader
        if loader is None or self._bar is None:
            return "opening"
        snapshot, depths = self._tracker.snapshot(loader.report), loader.depths
        self._bar.update(task.id, completed=snapshot.done)
        line = f"{snapshot.line(always_failed=False)}{_indexing(loader)}"
        if depths.indexing or self._bar.console.width < _WIDE:
            return line
        queues = f"look up {depths.looking_up} > embed {depths.embedding} > write {depths.writing}"
        return f"{line} [{queues}]"

    def __enter__(self) -> LoadDisplay:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _indexing(loader: WatchedLoad) -> str:
    """Return an addition to the line of progress while the index is built."""
    depths = loader.depths
    return f", indexing{f': {depths.index}' if depths.index else ''}" if depths.indexing else ""

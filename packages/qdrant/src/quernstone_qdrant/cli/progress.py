"""The progress bar of `quern load`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from quernstone.cli.options import on_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text

    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.report import LoadReport


class LoadDisplay:
    """Shows the rate, the time left and the queues of the stages, if standard error is a terminal.

    Args:
        total: Number of records. None if unknown; the time left is then not shown.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._loader: QdrantLoader | None = None
        self._progress: Progress | None = None
        if on_terminal():
            self._progress = self._make()

    def show(self, loader: QdrantLoader) -> None:
        """Start showing the progress of a loader."""
        self._loader = loader

    def _make(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TimeRemainingColumn
        from rich.text import Text

        display = self

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                """Draw the current figures (called several times a second)."""
                if display._loader is None:
                    return Text("opening")
                report, depths = display._loader.report, display._loader.depths
                display._advance(task, report)
                if depths.indexing:
                    running = f": {depths.index}" if depths.index else ""
                    return Text(f"{figures(report)} [indexing{running}]")
                queues = (
                    f"look up {depths.looking_up} > embed {depths.embedding} "
                    f"> write {depths.writing}"
                )
                return Text(f"{figures(report)} [{queues}]")

        # Created now, so that it uses the current standard error: warnings appear above the bar.
        return Progress(
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            Figures(),
            console=Console(stderr=True),
            transient=True,
            redirect_stderr=True,
        )

    def _advance(self, task: Task, report: LoadReport) -> None:
        if self._progress is not None and report.seen > task.completed:
            self._progress.update(task.id, completed=report.seen)

    def __enter__(self) -> LoadDisplay:
        if self._progress is not None:
            self._progress.start()
            self._progress.add_task("", total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


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

"""The progress bar of long calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    description: str, total: int | None, *, show: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while the block runs.

    Args:
        description: Title of the bar.
        total: Number of inputs, None if unknown.
        show: False yields a function that does nothing.

    Yields:
        A function to call with the number of inputs finished since the last call.
    """
    if not show:
        yield lambda _count: None
        return
    # Imported on use: rich's progress module is slow to import and rarely needed.
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    numbers = progress.MofNCompleteColumn()
    times = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
    columns = "{task.description}", progress.BarColumn(), numbers, *times
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)

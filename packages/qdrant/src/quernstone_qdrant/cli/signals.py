"""Stop a load by Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from quernstone_qdrant.loader import QdrantLoader

_SIGNALLED = 128
"""Exit codes of processes that a signal ended are this plus the signal's number, as in shells."""


@contextmanager
def stopped_by_signals(loader: QdrantLoader) -> Iterator[list[int]]:
    """Stop the load cleanly on the first Ctrl-C or SIGTERM; the second one ends the process.

    Yields:
        The signals received.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        loader.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_as_stopped(signals: list[int]) -> None:
    """End the command with the exit code of the signal that stopped the load."""
    typer.echo(
        "quern: stopped before the end; the documents counted above are stored, "
        "and the same command continues from there",
        err=True,
    )
    raise typer.Exit(_SIGNALLED + signals[0])

"""Stop a load by Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import typer

from quernstone.cli.table import print_error
from quernstone.cli.wording import in_options
from quernstone.errors import QuernstoneError

if TYPE_CHECKING:
    from quernstone_qdrant.loader import QdrantLoader

_SIGNALLED = 128
"""A process that a signal ends has this exit code plus the signal's number, as in shells."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A handler that stops a load at the first Ctrl-C or SIGTERM, and aborts it at the second.

    If the block raises after a signal, the process ends without closing the model, which may be
    busy for minutes.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._loader: QdrantLoader | None = None
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(self, loader: QdrantLoader) -> None:
        """From now on, let the first signal stop this loader; before, it aborts."""
        self._loader = loader

    def _handle(self, number: int, _frame: object) -> None:
        self.received.append(number)
        if self._loader is None or len(self.received) > 1:
            raise KeyboardInterrupt
        again = "press again" if number == signal.SIGINT else "send it again"
        line = f"quern: stopping after what is in flight; {again} to abort\n"
        # Written directly: the handler may have interrupted a write to the buffered stream.
        with contextlib.suppress(OSError):
            clear = "\r\x1b[2K" if os.isatty(2) else ""
            os.write(2, f"{clear}{line}".encode())
        self._loader.stop()

    def end_process(self) -> NoReturn:
        """End the process with the exit code of the signal, without closing the model."""
        typer.echo(
            "quern: stopped before the end; the documents counted above are stored, "
            "and the same command continues from there",
            err=True,
        )
        _end_process(_SIGNALLED + self.received[0])

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if not self.received or error is None:
            return
        if isinstance(error, KeyboardInterrupt):
            typer.echo("quern: aborted", err=True)
            _end_process(_SIGNALLED + self.received[0])
        if isinstance(error, QuernstoneError):
            print_error(in_options(str(error), {}, bare=False))
            _end_process(1)


def _end_process(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)

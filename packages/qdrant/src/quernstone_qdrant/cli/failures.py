"""Report the errors that a load skips, and the one that ends it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import typer

from quernstone.cli.wording import in_options
from quernstone.errors import ConfigError, QuernstoneError

_SHOWN = 10


class SkippedErrors:
    """A printer of the first ten errors that a load skips; at the end it prints their number.

    Args:
        dead_letter: The file with all of them, if there is one.
    """

    def __init__(self, dead_letter: Path | None) -> None:
        self._count = 0
        self._dead_letter = dead_letter

    def add(self, error: QuernstoneError) -> None:
        """Print an error, or only count it."""
        self._count += 1
        if self._count <= _SHOWN:
            reason = in_options(" ".join(str(error).split()), {}, bare=False)
            typer.echo(f"quern: left out: {reason}", err=True)

    def __enter__(self) -> SkippedErrors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._count > _SHOWN:
            where = self._dead_letter or "--dead-letter FILE"
            typer.echo(
                f"quern: left out: {self._count - _SHOWN:,} more, {self._count:,} in total; "
                f"{where} lists all of them",
                err=True,
            )


@contextmanager
def with_remedy() -> Iterator[None]:
    """Name the option that skips a bad file or record, if one ends the command."""
    from quernstone_qdrant.errors import RecordError, SourceError

    try:
        yield
    except SourceError as error:
        reason = f"{error.reason} (--skip-errors leaves it out)"
        raise SourceError(error.path, reason, error.row) from error
    except RecordError as error:
        raise RecordError(error.key, f"{error.reason} (--skip-errors leaves it out)") from error


def check_writable(option: str, path: Path | None) -> None:
    """Raise a `ConfigError` unless a file can be written, before hours of work depend on it."""
    if path is None:
        return
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{option} {path} cannot be written: {reason}") from error

"""The file for what could not be loaded: one JSON object per line, which can be loaded again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from quernstone.errors import ConfigError, QuernstoneError
from quernstone_qdrant.documents.json_values import to_json
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError

MARK = "quernstone_dead_letter"
"""The field by which a line is known: it holds the reason."""


class Failure(NamedTuple):
    """What was left out, and why."""

    error: QuernstoneError
    record: object
    """As far as it could be read; None: not at all."""


class DeadLetters:
    """Writes the file, line by line. Nothing left out leaves an empty file.

    It is written under the name `PATH.part` and renamed when the block ends: so a load may read
    the dead letters of the one before and write its own to the same file.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._file = self._part.open("wb")

    def add(self, failure: Failure) -> None:
        """Write one line; it is there even if the load is killed."""
        error = failure.error
        line: dict[str, Any] = {MARK: str(error), "error": type(error).__name__}
        if isinstance(error, SourceError):
            line |= {"path": error.path, "row": error.row, "reason": error.reason}
        elif isinstance(failure.record, Record):
            line["record"] = to_json(asdict(failure.record))
        else:
            line["value"] = to_json(failure.record)
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._part.replace(self._path)


def refuse_to_prune_by(paths: Iterable[Path]) -> None:
    """Raise a `ConfigError` for a file of dead letters.

    Its records name the source that they came from, and the others of that source would be deleted.
    """
    for path in paths:
        if not path.is_file():  # what is read of a pipe is gone
            continue
        with path.open("rb") as lines:
            found = lines.readline(len(MARK) + 2).startswith(b'{"' + MARK.encode())
        if found:
            raise ConfigError(
                f"{str(path)!r} holds only what a load left out, so nothing can be pruned by it; "
                "load it, and prune by the folders and files that were loaded"
            )


def read_dead_letter(line: Mapping[str, Any], path: str, row: int) -> Record | SourceError:
    """Read a line back: the record as it was, or what was wrong with it, again.

    Args:
        line: An object that has the field `MARK`.
        path: Of the file it is in.
        row: Number of the line.
    """
    record = line.get("record")
    if isinstance(record, dict):
        try:
            return Record(**record)
        except TypeError as error:
            return SourceError(path, f"a damaged dead letter: {error}", row)
    if "path" in line:
        return SourceError(str(line["path"]), str(line.get("reason")), line.get("row"))
    return SourceError(path, f"no text was found in it: {line[MARK]}", row)

"""A dead-letter file: one JSON object per record that could not be loaded, ready to load again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import orjson

from quernstone.errors import ConfigError, QuernstoneError
from quernstone_qdrant.documents.json_values import JsonValue, UnstorableError, to_json
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import SourceError

MARK = "quernstone_dead_letter"
"""Field that marks a line as a dead letter. It holds the reason."""
_LEVELS = 10_000
"""Maximum nesting in a dead letter: it also keeps records that are nested too deeply for Qdrant."""


class Failure(NamedTuple):
    """A record that was not loaded, and the reason."""

    error: QuernstoneError
    record: object
    """The record as far as it could be read; None if it could not be read at all."""


class DeadLetters:
    """A writer of a dead-letter file. The file is empty if nothing failed.

    Lines go to `PATH.part`, which is renamed at the end of the `with` block. A load can therefore
    read the dead letters of the previous load and write its own to the same path.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._file = self._part.open("wb")

    def add(self, failure: Failure) -> None:
        """Write and flush one line, so that it survives if the load is killed."""
        error = failure.error
        line: dict[str, Any] = {MARK: str(error), "error": type(error).__name__}
        if isinstance(error, SourceError):
            line |= {"path": error.path, "row": error.row, "reason": error.reason}
        else:
            line |= _content(failure.record)
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


def _content(record: object) -> dict[str, JsonValue]:
    try:
        if isinstance(record, Record):
            content = {"record": to_json(asdict(record), _LEVELS)}
        else:
            content = {"value": to_json(record, _LEVELS)}
        orjson.dumps(content)
    except (RecursionError, UnstorableError, orjson.JSONEncodeError) as error:
        return {"left_out": f"the record, which JSON cannot hold: {error}"}
    return content


def refuse_to_prune_by(paths: Iterable[Path]) -> None:
    """Raise a `ConfigError` if one of `paths` is a dead-letter file.

    Its records name their original source, so pruning would delete all other records of that
    source.
    """
    for path in paths:
        if not path.is_file():  # reading from a pipe would consume its data
            continue
        with path.open("rb") as lines:
            found = lines.readline(len(MARK) + 2).startswith(b'{"' + MARK.encode())
        if found:
            raise ConfigError(
                f"{str(path)!r} is a dead-letter file: pruning by it would delete the records that "
                "were loaded; load it without pruning, and prune by the original files and folders"
            )


def read_dead_letter(line: Mapping[str, Any], path: str, row: int) -> Record | SourceError:
    """Return the record of a line, or the original error if the line has no record.

    Args:
        line: An object with the field `MARK`.
        path: Path of the dead-letter file.
        row: Number of the line.
    """
    record = line.get("record")
    if isinstance(record, dict):
        try:
            lists = {name: tuple(record.get(name, ())) for name in ("added", "pages")}
            vector = record.get("vector")
            vector = None if vector is None else np.asarray(vector, np.float32)
            return Record(**{**record, **lists, "vector": vector})
        except (TypeError, ValueError) as error:
            return SourceError(path, f"the dead letter is damaged: {error}", row)
    if "path" in line:
        return SourceError(str(line["path"]), str(line.get("reason")), line.get("row"))
    return SourceError(path, f"no text was found in it: {line[MARK]}", row)

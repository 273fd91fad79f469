"""The folder of one evaluation: one model, one set of rules, any number of tasks.

NAME/run.json                                   what the scores depend on, and the tasks
NAME/results/{model}/{revision}/{task}.json     mteb's own results, saved after each subset
NAME/predictions/{task}_predictions.json        what stage two reranks
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from mteb import ResultCache
from mteb.abstasks import AbsTask

from quernstone.errors import ConfigError
from quernstone.evaluation.errors import ResultsError

_RUN = "run.json"


class RunFolder:
    """A folder that is written by one evaluation and by its continuations."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open a folder, new or of an earlier run with the same settings.

        Args:
            path: Made if it does not exist.
            settings: All that scores depend on, as JSON values.

        Raises:
            ConfigError: The folder holds results of another model or of other settings.
            ResultsError: Its `run.json` is damaged.
        """
        self.path = path
        self._run: dict[str, Any] = {"settings": dict(settings), "tasks": {}}
        existing = read_run(path)
        if existing is not None:
            _refuse_other(path, existing["settings"], settings)
            self._run = existing
        path.mkdir(parents=True, exist_ok=True)
        self._save()

    @property
    def predictions(self) -> Path:
        """The folder of predictions."""
        return self.path / "predictions"

    def cache(self) -> ResultCache:
        """Mteb's view of the results."""
        return ResultCache(self.path)

    def add_task(self, task: AbsTask) -> None:
        """Remember a task's type, by which a summary groups: mteb does not know all tasks."""
        self._run["tasks"][task.metadata.name] = task.metadata.type
        self._save()

    def _save(self) -> None:
        write_json(self.path / _RUN, self._run)


def read_run(path: Path) -> dict[str, Any] | None:
    """The `run.json` of a folder, None if it has none.

    Raises:
        ResultsError: The file is damaged.
    """
    file = path / _RUN
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not {"settings", "tasks"} <= set(content):
        raise ResultsError(file, "not the file of a run: expected `settings` and `tasks`")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file, in which mteb may have written NaN.

    Raises:
        ResultsError: No such file, half a file, or no JSON at all.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultsError(path, "there is no such file") from error
    except ValueError as error:
        raise ResultsError(
            path, f"not complete JSON ({error}); run the evaluation again to finish it"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        part.write_bytes(orjson.dumps(content, option=options))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _refuse_other(path: Path, existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    keys = list(dict.fromkeys([*existing, *wanted]))
    different = [
        f"`{key}` is {existing.get(key)!r} there and {wanted.get(key)!r} here"
        for key in keys
        if existing.get(key) != wanted.get(key)
    ]
    if different:
        raise ConfigError(
            f"`{path}` holds results of another model or of other settings: "
            f"{'; '.join(different)}; choose another folder"
        )

"""The folder of an evaluation: one model, one set of rules, any number of tasks.

NAME/run.json                                   settings that scores depend on, and the tasks
NAME/results/{model}/{revision}/{task}.json     mteb's own results, saved after each subset
NAME/predictions/{task}_predictions.json        rankings for stage two
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout
from mteb import ResultCache
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate

from quernstone.checkpoints.files import pointer_fault
from quernstone.errors import ConfigError
from quernstone.evaluation.errors import ResultsError

_RUN = "run.json"


class RunFolder:
    """Folder that is written by an evaluation and by the runs that resume it.

    Other processes cannot write to it until the end of a `with` block.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Create a folder, or open that of an earlier run with the same settings.

        Args:
            path: Created if it does not exist.
            settings: All settings that scores depend on, as JSON values.

        Raises:
            ConfigError: The folder contains results of another model or of other settings, or
                another process is writing to it.
            ResultsError: Its `run.json` is damaged.
        """
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"another process is evaluating into `{path}`: wait for it, or choose another "
                "folder"
            ) from None
        try:
            existing = read_run(path)
            if existing is not None:
                _refuse_other(path, existing["settings"], settings)
            self._run = existing or {"settings": dict(settings), "tasks": {}}
            self._save()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def predictions(self) -> Path:
        """Folder of predictions."""
        return self.path / "predictions"

    def cache(self) -> ResultCache:
        """Return the results as mteb's cache."""
        return ResultCache(self.path)

    def add_task(self, task: AbsTask) -> None:
        """Save a task's type for summaries, since mteb does not know the tasks of users' files.

        For an aggregate, whose parts have results of their own, save their names as well.
        """
        self._run["tasks"][task.metadata.name] = task.metadata.type
        if isinstance(task, AbsTaskAggregate):
            parts = {part.metadata.name for part in task.tasks}
            self._run["parts"] = sorted(parts.union(self._run.get("parts", [])))
        self._save()

    def _save(self) -> None:
        write_json(self.path / _RUN, self._run)


def read_run(path: Path) -> dict[str, Any] | None:
    """Return the `run.json` of a folder; None if it has none.

    Raises:
        ResultsError: The file is damaged.
    """
    file = path / _RUN
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or not {"settings", "tasks"} <= set(content):
        raise ResultsError(file, "not a file of a run: expected `settings` and `tasks`")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file, which may contain NaN if mteb wrote it.

    Raises:
        ResultsError: The file does not exist or is not complete JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultsError(path, "the file does not exist") from error
    except ValueError as error:
        fault = f"not complete JSON ({error}); run the evaluation again to finish it"
        raise ResultsError(path, pointer_fault(path) or fault) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
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
            f"`{path}` contains results of another model or of other settings: "
            f"{'; '.join(different)}; choose another folder"
        )

"""The rankings that stage one saved: ours (those of mteb 2), or the official scripts' (mteb 1).

ours        {task}_predictions.json             {subset: {split: {query: {document: score}}}}
official    {task}_{subset}_predictions.json    {query: {document: score}}, split `test`
{task}_{subset}_{split}_predictions.json                        any other split
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask

from quernstone.errors import ConfigError
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.folder import read_json, read_run

Ranking = Mapping[str, Mapping[str, float]]
"""Scores by document by query."""

_SUFFIX = "_predictions.json"
_META = "mteb_model_meta"


@dataclass(frozen=True, slots=True)
class TaskPredictions:
    """What one model answered to one task."""

    rankings: Mapping[str, Mapping[str, Ranking]]
    """By subset, then by split."""
    model: Mapping[str, Any]
    """`model_name` and `revision`, as far as the file says."""
    path: Path

    def as_mteb(self) -> dict[str, Any]:
        """The content of the file that mteb 2 would have written."""
        return {_META: dict(self.model), **self.rankings}


class Predictions:
    """A folder of predictions."""

    def __init__(self, path: Path) -> None:
        """Open a folder: of `quern eval run`, of predictions alone, or of the official scripts.

        Raises:
            ConfigError: No such folder, or no predictions in it.
        """
        self.path = path / "predictions" if read_run(path) is not None else path
        if not any(self.path.glob(f"*{_SUFFIX}")):
            raise ConfigError(f"`{path}` holds no predictions (files `*{_SUFFIX}`)")

    def of_task(self, task: AbsTask) -> TaskPredictions:
        """The predictions for all splits and subsets of a task.

        Raises:
            ResultsError: A file is missing or damaged, or is of another split or subset.
        """
        name = task.metadata.name
        whole = self.path / f"{name}{_SUFFIX}"
        if whole.is_file():
            content = _object(whole)
            model = content.pop(_META, {})
            found = TaskPredictions(content, model, whole)
        else:
            found = self._official(task)
        _check(found, task)
        return found

    def _official(self, task: AbsTask) -> TaskPredictions:
        name = task.metadata.name
        rankings: dict[str, dict[str, Ranking]] = {}
        for subset in task.hf_subsets:
            rankings[subset] = {}
            for split in task.eval_splits:
                tail = "" if split == "test" else f"_{split}"
                path = self.path / f"{name}_{subset}{tail}{_SUFFIX}"
                if path.is_file():
                    rankings[subset][split] = _object(path)
        if not any(rankings.values()):
            others = sorted(path.name for path in self.path.glob(f"{name}_*{_SUFFIX}"))
            there = f"; there are {', '.join(others)}" if others else ""
            wanted = f"splits {list(task.eval_splits)} of subsets {_some(task.hf_subsets)}"
            raise ResultsError(self.path, f"no predictions of {name} for {wanted}{there}")
        return TaskPredictions(rankings, {}, self.path)


def _check(found: TaskPredictions, task: AbsTask) -> None:
    name = task.metadata.name
    for subset in task.hf_subsets:
        if subset not in found.rankings:
            raise ResultsError(
                found.path,
                f"holds {name} for the subsets {_some(list(found.rankings))} and not for "
                f"{subset!r}; run stage one on it, or leave its language out",
            )
        splits = found.rankings[subset]
        for split in task.eval_splits:
            if split not in splits:
                raise ResultsError(
                    found.path,
                    f"holds predictions of {name} ({subset}) for the splits {sorted(splits)} "
                    f"and not for {split!r}, which the task is evaluated on",
                )
            if not all(isinstance(documents, dict) for documents in splits[split].values()):
                raise ResultsError(found.path, f"{name} ({subset}, {split}) is no ranking")


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ResultsError(path, f"holds a {type(content).__name__}, expected an object")
    return content


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown

"""Rankings saved by stage one, in the layout of mteb 2 or of the official scripts (mteb 1).

ours        {task}_predictions.json             {subset: {split: {query: {document: score}}}}
official    {task}_{subset}_predictions.json    {query: {document: score}}, split `test`
{task}_{subset}_{split}_predictions.json                        any other split
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask, AbsTaskRetrieval

from quernstone.errors import ConfigError
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.folder import read_json, read_run

Ranking = Mapping[str, Mapping[str, float]]
"""Scores by document by query."""

_SUFFIX = "_predictions.json"
_META = "mteb_model_meta"


@dataclass(frozen=True, slots=True)
class TaskPredictions:
    """Rankings of one task by one model."""

    rankings: Mapping[str, Mapping[str, Ranking]]
    """By subset, then by split."""
    model: Mapping[str, Any]
    """`model_name` and `revision`, if the file contains them."""
    path: Path

    def as_mteb(self, task: AbsTaskRetrieval, top_k: int) -> dict[str, Any]:
        """Return the best documents as a file of mteb 2, with all splits of the loaded task.

        Raises:
            ResultsError: A document is not in the corpus.
        """
        content: dict[str, Any] = {_META: dict(self.model)}
        for subset, splits in task.dataset.items():
            content[subset] = {}
            for split, data in splits.items():
                used = subset in task.hf_subsets and split in task.eval_splits
                ranking = self.rankings[subset][split] if used else {}
                content[subset][split] = _best(ranking, top_k)
                if used:
                    self._check_documents(content[subset][split], data, f"{subset}/{split}")
        return content

    def _check_documents(self, best: Ranking, data: Mapping[str, Any], where: str) -> None:
        asked, corpus = set(data["queries"]["id"]), set(data["corpus"]["id"])
        found = {one for query in best if query in asked for one in best[query]}
        missing = sorted(found - corpus)
        if missing:
            raise ResultsError(
                self.path,
                f"{len(missing)} of {len(found)} documents of {where} are not in the corpus (such "
                f"as {missing[0]!r}): they are of another data set",
            )


class Predictions:
    """A folder of predictions."""

    def __init__(self, path: Path) -> None:
        """Open a folder of `quern eval run`, of the official scripts, or with only predictions.

        Raises:
            ConfigError: The folder does not exist or contains no predictions.
        """
        run = read_run(path)
        self.path = path if run is None else path / "predictions"
        self.settings: dict[str, Any] = {"predictions": str(path.resolve())}
        """Settings that identify these predictions: those of their run, or the path."""
        if run is not None:
            self.settings = {
                f"first stage's {key}": run["settings"][key] for key in run["settings"]
            }
        if not any(self.path.glob(f"*{_SUFFIX}")):
            raise ConfigError(f"`{path}` contains no predictions (files `*{_SUFFIX}`)")

    def of_task(self, task: AbsTask) -> TaskPredictions:
        """Return the predictions for all splits and subsets of a task.

        Raises:
            ResultsError: A file is missing or damaged, or belongs to another split or subset.
        """
        name = task.metadata.name
        path = self.path / f"{name}{_SUFFIX}"
        if path.is_file():
            content = _object(path)
            model = content.pop(_META, {})
            found = TaskPredictions(content, model, path)
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
            existing = f"; found only {', '.join(others)}" if others else ""
            wanted = f"splits {list(task.eval_splits)} of subsets {_listed(task.hf_subsets)}"
            raise ResultsError(self.path, f"no predictions of {name} for {wanted}{existing}")
        return TaskPredictions(rankings, {}, self.path)


def _best(ranking: Ranking, top_k: int) -> Ranking:
    """Return the best documents of each query, best first; equal scores keep their order."""
    return {
        query: dict(sorted(scores.items(), key=lambda one: -one[1])[:top_k])
        for query, scores in ranking.items()
    }


def _check(found: TaskPredictions, task: AbsTask) -> None:
    name = task.metadata.name
    for subset in task.hf_subsets:
        if subset not in found.rankings:
            raise ResultsError(
                found.path,
                f"contains {name} for the subsets {_listed(list(found.rankings))} but not for "
                f"{subset!r}; run stage one on it, or leave its language out",
            )
        splits = found.rankings[subset]
        for split in task.eval_splits:
            if split not in splits:
                raise ResultsError(
                    found.path,
                    f"contains predictions of {name} ({subset}) for the splits {sorted(splits)} "
                    f"but not for {split!r}, which the task is evaluated on",
                )
            if not all(isinstance(documents, dict) for documents in splits[split].values()):
                raise ResultsError(found.path, f"{name} ({subset}, {split}) is not a ranking")


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ResultsError(path, f"contains a {type(content).__name__}, expected an object")
    return content


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown

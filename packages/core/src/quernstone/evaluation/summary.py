"""Means of results: over tasks, over types, per type and per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from mteb.abstasks import AbsTask

from quernstone.errors import ConfigError
from quernstone.evaluation.benchmarks import benchmark_tasks, task_types
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.folder import read_json, read_run

SplitRule = Literal["first", "all"]
"""`first` uses only the first split of each task, as the official `summary.py` does; `all` uses
every split, as mteb's own tables do."""

_NO_NAMES = frozenset({"no_model_name_available", "no_revision_available", "no_version_available"})
"""Folders of mteb for a model without a name or a revision."""

Scores = Mapping[str, Mapping[str, float]]
"""Main scores, 0 to 1: split -> subset -> score."""


class Results(NamedTuple):
    """All results in a folder."""

    scores: dict[str, Scores]
    """By task."""
    versions: list[str]
    """Versions of mteb that computed them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """Score of one task."""

    task: str
    type: str
    score: float
    """Mean of its main scores, times 100."""
    missing: list[str] = field(default_factory=list)
    """`split/subset` pairs of the benchmark without results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Scores of one model, times 100."""

    name: str
    tasks: list[TaskScore]
    missing: list[str]
    """Tasks of the benchmark without results."""
    reranked: bool = False
    """True for results of stage two."""
    versions: list[str] = field(default_factory=list)
    """Versions of mteb that computed the results in the folder."""

    @property
    def label(self) -> str:
        """The name, and how much of the benchmark the means cover unless it is all."""
        total = len(self.tasks) + len(self.missing)
        partial = sum(1 for task in self.tasks if task.missing)
        covered = f"{len(self.tasks)} of {total} tasks" if self.missing else f"{total} tasks"
        if partial:
            return f"{self.name} ({covered}, {partial} of them in part)"
        return f"{self.name} ({covered})" if self.missing else self.name

    @property
    def by_type(self) -> dict[str, float]:
        """Mean over the tasks of each type, in the order of the tasks."""
        types = dict.fromkeys(task.type for task in self.tasks)
        return {one: fmean(t.score for t in self.tasks if t.type == one) for one in types}

    @property
    def mean_task(self) -> float:
        """Mean over tasks."""
        return fmean(task.score for task in self.tasks)

    @property
    def mean_type(self) -> float:
        """Mean over the means of types."""
        return fmean(self.by_type.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return {
            "name": self.name,
            "label": self.label,
            "mean_task": round(self.mean_task, 2),
            "mean_type": round(self.mean_type, 2),
            "by_type": {name: round(score, 2) for name, score in self.by_type.items()},
            "tasks": [asdict(task) | {"score": round(task.score, 2)} for task in self.tasks],
            "missing": self.missing,
            "mteb_versions": self.versions,
        }


def summarise(path: Path, *, benchmark: str | None = None, rule: SplitRule = "first") -> Summary:
    """Summarize all results in a folder.

    Args:
        path: A folder of `quern eval run` or `rerank`, of mteb, or of the official scripts.
        benchmark: Only include the tasks, splits and subsets of this benchmark, and list missing
            ones. None: all results.
        rule: The splits to include.

    Raises:
        ConfigError: The benchmark is unknown or has no results.
        ResultsError: A file is damaged, or the results are of several models.
    """
    found, versions = read_results(path)
    run = read_run(path) or {"settings": {}, "tasks": {}}
    reranked = "top_k" in run["settings"]
    missing: list[str] = []
    if benchmark is None:
        types = {**task_types(found), **run["tasks"]}
        parts = set(run.get("parts", ())) - set(run["tasks"])
        rows = sorted((types.get(task, "other"), task) for task in found.keys() - parts)
        tasks = [_of_results(task, kind, found[task], rule) for kind, task in rows]
    else:
        wanted = benchmark_tasks(benchmark)
        if reranked:
            wanted = [task for task in wanted if task.metadata.type == "Retrieval"]
        counted = [_of_benchmark(task, found.get(task.metadata.name, {}), rule) for task in wanted]
        tasks = [score for score in counted if score is not None]
        found_names = {score.task for score in tasks}
        missing = [name for task in wanted if (name := task.metadata.name) not in found_names]
    if not tasks:
        raise ConfigError(f"`{path}` contains no results of {benchmark or 'any task'}")
    name = run["settings"].get("model") or _model_name(path.resolve())
    return Summary(
        name=str(name), tasks=tasks, missing=missing, reranked=reranked, versions=versions
    )


def read_results(path: Path) -> Results:
    """Read the main scores of all result files in a folder.

    Raises:
        ConfigError: The folder does not exist.
        ResultsError: A file is damaged, or a task has two files, so results are of several models.
    """
    if not path.is_dir():
        raise ConfigError(f"`{path}` is not a folder")
    found: dict[str, Scores] = {}
    files: dict[str, Path] = {}
    versions = set()
    for file in sorted(path.rglob("*.json")):
        if file.name.endswith("_predictions.json"):
            continue
        content = read_json(file)
        if not isinstance(content, dict) or not {"task_name", "scores"} <= set(content):
            continue
        name = content["task_name"]
        if name in found:
            raise ResultsError(
                path,
                f"contains results of several models: {name} is in `{files[name]}` and in `{file}`"
                "; pass the folder of one of them",
            )
        files[name] = file
        found[name] = _main_scores(content["scores"], file)
        versions.add(str(content.get("mteb_version")))
    return Results(found, sorted(versions))


def _model_name(folder: Path) -> str:
    """Return the model whose results a folder holds: in mteb's layout, MODEL/REVISION."""
    names = [one.name for one in (folder, *folder.parents)]
    if (folder / "model_meta.json").is_file():
        content = read_json(folder / "model_meta.json")
        names[:1] = [str(content.get("name"))] if isinstance(content, dict) else []
    return next((name for name in names if name not in {*_NO_NAMES, "None"}), names[0])


def _main_scores(scores: Any, file: Path) -> Scores:
    try:
        found = {
            split: {str(entry["hf_subset"]): float(entry["main_score"]) for entry in entries}
            for split, entries in scores.items()
            if entries
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(file, f"not the results of a task: {error!r}") from error
    if not found:
        raise ResultsError(file, "contains no scores")
    return found


def _of_results(name: str, kind: str, scores: Scores, rule: SplitRule) -> TaskScore:
    counted = _mean(scores, list(scores), None, rule)
    return TaskScore(task=name, type=kind, score=counted)


def _of_benchmark(task: AbsTask, scores: Scores, rule: SplitRule) -> TaskScore | None:
    """Return the score of a benchmark's task; None without results for its splits and subsets."""
    splits = [split for split in task.eval_splits if split in scores]
    wanted = list(task.eval_splits)[:1] if rule == "first" else list(task.eval_splits)
    subsets = set(task.hf_subsets)
    if not any(subsets & set(scores[split]) for split in splits):
        return None
    missing = [
        f"{split}/{subset}"
        for split in wanted
        for subset in task.hf_subsets
        if subset not in scores.get(split, {})
    ]
    return TaskScore(
        task=task.metadata.name,
        type=str(task.metadata.type),
        score=_mean(scores, splits, subsets, rule),
        missing=missing,
    )


def _mean(
    scores: Scores, splits: Sequence[str], subsets: set[str] | None, rule: SplitRule
) -> float:
    """Return the mean over the subsets of the included splits, times 100."""
    included = splits[:1] if rule == "first" else splits
    return 100 * fmean(
        score
        for split in included
        for subset, score in scores[split].items()
        if subsets is None or subset in subsets
    )

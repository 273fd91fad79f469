"""Stage one: run tasks on an embedder, keep finished results, continue after failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import mteb
from mteb.abstasks import (
    AbsTask,
    AbsTaskClustering,
    AbsTaskMultilabelClassification,
    AbsTaskRetrieval,
)
from mteb.models import MTEBModels
from mteb.results import TaskResult
from mteb.types import EncodeKwargs

from quernstone import Embedder
from quernstone.evaluation.adapters import Encoder
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.folder import RunFolder, read_json
from quernstone.evaluation.protocol import Protocol

logger = logging.getLogger("quernstone")

_DRAWING = (AbsTaskClustering, AbsTaskMultilabelClassification)
"""Task types that share one random generator among their subsets."""

# Only mteb's data loaders use this batch size: Quernstone fills batches by tokens.
ENCODE = cast("EncodeKwargs", {"batch_size": 512, "show_progress_bar": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of one task."""

    task: str
    type: str
    score: float | None
    """Main score of all splits and subsets, 0 to 1; None if the task failed."""
    seconds: float
    error: str = ""
    kept: str = ""
    """Date of the results if an earlier run computed them."""


OnTask = Callable[[Outcome], None]


def run(
    embedder: Embedder,
    tasks: Sequence[AbsTask],
    output: Path,
    protocol: Protocol,
    *,
    on_start: Callable[[AbsTask], None] = lambda task: None,  # noqa: ARG005
    on_task: OnTask = lambda outcome: None,  # noqa: ARG005
    progress: bool = False,
) -> list[Outcome]:
    """Run tasks and skip those with results in `output`.

    Results are saved after each subset, so an interrupted run resumes there. A task that fails,
    for example because its data cannot be loaded, is reported, and the next one runs.

    Args:
        embedder: The model; its `max_length` should be that of the protocol.
        tasks: Tasks to run, in this order.
        output: The folder for this model with these settings.
        protocol: The rules.
        on_start: Called before each task that has no results yet.
        on_task: Called after each task.
        progress: Show the progress of each long call of the model.

    Returns:
        An outcome for each task, in order.

    Raises:
        ConfigError: The folder belongs to another model or to other settings.
    """
    encoder = Encoder(embedder, protocol, progress=progress)
    outcomes = []
    with RunFolder(output, settings_of(embedder, protocol)) as folder:
        for task in tasks:
            folder.add_task(task)
            outcome = run_task(encoder, task, folder, on_start)
            on_task(outcome)
            outcomes.append(outcome)
    return outcomes


def settings_of(embedder: Embedder, protocol: Protocol) -> dict[str, Any]:
    """Return all settings that the scores of a run depend on."""
    return {
        "model": embedder.model,
        "adapter": embedder.adapter,
        "revision": embedder.revision,
        "engine": embedder.info.engine,
        "dtype": embedder.info.dtype,
        "dimensions": embedder.dimensions,
        "max_length": embedder.max_length,
        "protocol": protocol.name,
        "instructions": "none" if protocol.bare else protocol.instructions.digest,
    }


def run_task(
    model: MTEBModels,
    task: AbsTask,
    folder: RunFolder,
    on_start: Callable[[AbsTask], None] = lambda task: None,  # noqa: ARG005
) -> Outcome:
    """Run one task, or its missing part, and turn a failure into an outcome."""
    started = time.perf_counter()
    name, kind = task.metadata.name, str(task.metadata.type)
    # Only rankings can be reranked; other predictions would only take space.
    ranks = isinstance(task, AbsTaskRetrieval) or kind == "Retrieval"  # or an aggregate of them
    predictions = folder.predictions if ranks else None
    kept = ""
    try:
        found = saved_result(model, task, folder)
        if found is not None and is_finished(found, task, folder):
            # mteb saves UTC
            kept = f"{found.date.astimezone():%Y-%m-%d %H:%M}" if found.date else "an earlier date"
        else:
            on_start(task)
            restart = found is not None and _must_restart(found, task, folder)
            result = mteb.evaluate(
                model,
                task,
                cache=folder.cache(),
                overwrite_strategy="always" if restart else "only-missing",
                prediction_folder=predictions,
                encode_kwargs=ENCODE,
                co2_tracker=False,
                show_progress_bar=False,
            )
            if result.exceptions:
                raise RuntimeError(result.exceptions[0].exception)
            [found] = result.task_results
        score = fmean(main_scores(found, task).values())
    except Exception as error:
        logger.debug("task %s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        return Outcome(task=name, type=kind, score=None, seconds=seconds, error=reason)
    seconds = time.perf_counter() - started
    return Outcome(task=name, type=kind, score=score, seconds=seconds, kept=kept)


def main_scores(found: TaskResult, task: AbsTask) -> dict[str, float]:
    """Return the main scores, 0 to 1, by `subset/split` of the task; results may have more."""
    return {
        f"{entry['hf_subset']}/{split}": float(entry["main_score"])
        for split in task.eval_splits
        for entry in found.scores[split]
        if entry["hf_subset"] in task.hf_subsets
    }


def saved_result(model: MTEBModels, task: AbsTask, folder: RunFolder) -> TaskResult | None:
    """Return the saved results of a task, which may lack subsets."""
    name, cache = task.metadata.name, folder.cache()
    _remove_if_damaged(cache.get_task_result_path(name, model.mteb_model_meta))
    return cache.load_task_result(name, model.mteb_model_meta)


def is_finished(found: TaskResult, task: AbsTask, folder: RunFolder) -> bool:
    """Return True if a folder has all results and predictions of a task."""
    return (
        not found.get_missing_evaluations(task)
        and not _lacks_predictions(task, folder, found)
        and not _is_of_other_data(found, task)
    )


def _must_restart(found: TaskResult, task: AbsTask, folder: RunFolder) -> bool:
    """Return True if the existing results of an unfinished task cannot be extended."""
    if _is_of_other_data(found, task):
        logger.warning(
            "%s: computing again, because its results are of revision %s of the data, and mteb now "
            "has %s",
            task.metadata.name,
            found.dataset_revision,
            task.metadata.revision,
        )
        return True
    if isinstance(task, _DRAWING):
        # the random numbers of a subset depend on those drawn for the previous ones
        return bool(found.get_missing_evaluations(task))
    # mteb skips tasks with results, so it would never write missing predictions
    return _lacks_predictions(task, folder, found)


def _is_of_other_data(found: TaskResult, task: AbsTask) -> bool:
    return bool(found.dataset_revision != task.metadata.revision)


def _lacks_predictions(task: AbsTask, folder: RunFolder, found: TaskResult) -> bool:
    if not isinstance(task, AbsTaskRetrieval):
        return False
    saved = folder.predictions / task.prediction_file_name
    _remove_if_damaged(saved)
    predicted = read_json(saved) if saved.exists() else {}
    return any(
        split not in predicted.get(entry["hf_subset"], {})
        for split, entries in found.scores.items()
        for entry in entries
    )


def _remove_if_damaged(path: Path) -> None:
    """Remove a file that was written only in part."""
    if path.exists():
        try:
            read_json(path)
        except ResultsError:
            logger.warning("`%s` was written only in part: computing it again", path)
            path.unlink()

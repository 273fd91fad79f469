"""Stage one: run tasks on an embedder, keep what is done, go on after failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
"""Types whose tasks keep one random generator for all their subsets."""

# The batch is that of mteb's data loaders only: ours are filled by tokens.
ENCODE = cast("EncodeKwargs", {"batch_size": 512, "show_progress_bar": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one task."""

    task: str
    type: str
    score: float | None
    """Main score of all splits and subsets, 0 to 1; None when the task failed."""
    seconds: float
    """0 when there was nothing left to do."""
    error: str = ""


OnTask = Callable[[Outcome], None]


def run(
    embedder: Embedder,
    tasks: Sequence[AbsTask],
    output: Path,
    protocol: Protocol,
    *,
    on_task: OnTask = lambda outcome: None,  # noqa: ARG005
    progress: bool = False,
) -> list[Outcome]:
    """Run tasks, skipping what `output` already has.

    Results are saved after each subset, so an interrupted run goes on where it stopped. A task
    that fails, for example because its data cannot be loaded, is reported and the rest goes on.

    Args:
        embedder: The model; its `max_length` should be the protocol's.
        tasks: What to run, in this order.
        output: The folder of this model under these settings.
        protocol: The rules.
        on_task: Called after each task.
        progress: Show a progress bar for each call of the model.

    Returns:
        One outcome for each task, in order.

    Raises:
        ConfigError: The folder belongs to another model or to other settings.
    """
    folder = RunFolder(output, settings_of(embedder, protocol))
    encoder = Encoder(embedder, protocol, progress=progress)
    outcomes = []
    for task in tasks:
        folder.add_task(task)
        outcome = run_task(encoder, task, folder)
        on_task(outcome)
        outcomes.append(outcome)
    return outcomes


def settings_of(embedder: Embedder, protocol: Protocol) -> dict[str, Any]:
    """All that the scores of a run depend on."""
    return {
        "model": embedder.model,
        "revision": embedder.revision,
        "dtype": embedder.info.dtype,
        "dimensions": embedder.dimensions,
        "max_length": embedder.max_length,
        "protocol": protocol.name,
        "instructions": "none" if protocol.bare else protocol.instructions.digest,
    }


def run_task(model: MTEBModels, task: AbsTask, folder: RunFolder) -> Outcome:
    """Run one task, or what is missing of it, and turn a failure into an outcome."""
    started = time.perf_counter()
    name, kind = task.metadata.name, str(task.metadata.type)
    # Only rankings are reranked; other predictions are large and of no use here.
    predictions = folder.predictions if isinstance(task, AbsTaskRetrieval) else None
    try:
        afresh = _starts_afresh(model, task, folder)
        result = mteb.evaluate(
            model,
            task,
            cache=folder.cache(),
            overwrite_strategy="always" if afresh else "only-missing",
            prediction_folder=predictions,
            encode_kwargs=ENCODE,
            co2_tracker=False,
            show_progress_bar=False,
        )
        if result.exceptions:
            raise RuntimeError(result.exceptions[0].exception)
        score = float(result.task_results[0].get_score())
    except Exception as error:
        logger.debug("task %s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        return Outcome(task=name, type=kind, score=None, seconds=seconds, error=reason)
    return Outcome(task=name, type=kind, score=score, seconds=time.perf_counter() - started)


def is_finished(model: MTEBModels, task: AbsTask, folder: RunFolder) -> bool:
    """Whether a folder has all results of a task, and its predictions if it makes any."""
    found = _saved_result(model, task, folder)
    return (
        found is not None
        and not found.get_missing_evaluations(task)
        and not _lacks_predictions(task, folder, found)
    )


def _starts_afresh(model: MTEBModels, task: AbsTask, folder: RunFolder) -> bool:
    """Whether a task cannot go on from what is there."""
    found = _saved_result(model, task, folder)
    if found is None:
        return False
    if isinstance(task, _DRAWING):
        # the draws of a subset go on from those of the one before it
        return bool(found.get_missing_evaluations(task))
    # mteb skips what has results, and would never write predictions that are not there
    return _lacks_predictions(task, folder, found)


def _saved_result(model: MTEBModels, task: AbsTask, folder: RunFolder) -> TaskResult | None:
    name, cache = task.metadata.name, folder.cache()
    _remove_if_damaged(cache.get_task_result_path(name, model.mteb_model_meta))
    return cache.load_task_result(name, model.mteb_model_meta)


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
    """Remove a file that an interruption cut short."""
    if path.exists():
        try:
            read_json(path)
        except ResultsError:
            logger.warning("`%s` was written by half; doing it again", path)
            path.unlink()

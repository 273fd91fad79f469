"""Stage two: rerank the results of stage one and compare the scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import mteb
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.models.model_meta import ModelMeta
from mteb.types import QueryDatasetType, RetrievalOutputType

from quernstone import Reranker
from quernstone.encoding.templates import template_name
from quernstone.evaluation.adapters import CandidateSearch, CrossEncoder
from quernstone.evaluation.errors import ResultsError
from quernstone.evaluation.folder import RunFolder, read_json, write_json
from quernstone.evaluation.predictions import Predictions, TaskPredictions
from quernstone.evaluation.protocol import Protocol
from quernstone.evaluation.run import is_finished, main_scores, run_task, saved_result

logger = logging.getLogger("quernstone")

FIRST_STAGE = "first_stage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """Scores of one task before and after reranking."""

    task: str
    type: str
    first: float | None
    """Main score of stage one, 0 to 1; None without a stage one."""
    score: float | None
    """Main score after reranking; None if the task failed."""
    seconds: float
    error: str = ""
    kept: str = ""
    """Date of the results if an earlier run computed them."""

    @property
    def hurts(self) -> bool:
        """True if reranking lowered the score."""
        return self.first is not None and self.score is not None and self.score < self.first


class SavedSearch:
    """Search that returns saved rankings, so that mteb scores them like a model's."""

    def __init__(self, saved: TaskPredictions) -> None:
        self._saved = saved
        self.mteb_model_meta = ModelMeta.create_empty()

    def index(self, corpus: object, **kwargs: Any) -> None:
        """Do nothing; required by mteb's `SearchProtocol`."""

    def search(
        self,
        queries: QueryDatasetType,
        *,
        hf_split: str,
        hf_subset: str,
        **kwargs: Any,  # noqa: ARG002 - mteb passes more
    ) -> RetrievalOutputType:
        """Return the saved scores of the documents of each query.

        Raises:
            ResultsError: A query has no predictions.
        """
        ranking = self._saved.rankings[hf_subset][hf_split]
        missing = [query for query in queries["id"] if query not in ranking]
        if missing:
            raise ResultsError(
                self._saved.path,
                f"{len(missing)} of {len(queries)} queries of {hf_subset}/{hf_split} have no "
                f"predictions (the first is {missing[0]!r}): they are of another data set",
            )
        return {query: dict(ranking[query]) for query in queries["id"]}


def rerank(
    reranker: Reranker,
    tasks: Sequence[AbsTask],
    predictions: Predictions,
    output: Path,
    protocol: Protocol,
    *,
    top_k: int = 100,
    on_start: Callable[[AbsTask], None] = lambda task: None,  # noqa: ARG005
    on_task: Callable[[Reranked], None] = lambda outcome: None,  # noqa: ARG005
    progress: bool = False,
) -> list[Reranked]:
    """Rerank the best documents of stage one.

    Tasks of the types Reranking and InstructionReranking include their candidates, so they need no
    predictions and have no first stage to compare with.

    Args:
        reranker: The model; its template should be that of the protocol.
        tasks: Retrieval and reranking tasks.
        predictions: Rankings saved by stage one.
        output: The folder for this combination of reranker and first stage.
        protocol: The rules.
        top_k: Documents of each query to rerank.
        on_start: Called before each task that has no results yet.
        on_task: Called after each task.
        progress: Show the progress of each task.

    Returns:
        One outcome for each task, in order.

    Raises:
        ConfigError: A task does not rank documents, or the folder belongs to another model or to
            other settings.
    """
    settings = {
        "model": reranker.model,
        "adapter": reranker.adapter,
        "revision": reranker.revision,
        "engine": reranker.info.engine,
        "dtype": reranker.info.dtype,
        "template": template_name(reranker.template),
        "max_length": reranker.max_length,
        "protocol": protocol.name,
        "instructions": "none" if protocol.bare else protocol.instructions.digest,
        "top_k": top_k,
        **predictions.settings,
    }
    search = CandidateSearch(CrossEncoder(reranker, protocol), progress=progress)
    outcomes = []
    with RunFolder(output, settings) as folder:
        for task in tasks:
            folder.add_task(task)
            outcome = _rerank_task(search, task, predictions, folder, top_k, on_start)
            on_task(outcome)
            outcomes.append(outcome)
    return outcomes


def comparison(outcomes: Sequence[Reranked]) -> str:
    """Render a Markdown table of both stages that flags tasks with lower scores."""
    lines = ["| task | first stage | reranked | change | |", "| --- | --- | --- | --- | --- |"]
    for one in outcomes:
        first = "" if one.first is None else f"{100 * one.first:.2f}"
        after = "failed" if one.score is None else f"{100 * one.score:.2f}"
        change = ""
        if one.first is not None and one.score is not None:
            change = f"{100 * (one.score - one.first):+.2f}"
        lines.append(
            f"| {one.task} | {first} | {after} | {change} | {'worse' if one.hurts else ''} |"
        )
    return "\n".join(lines) + "\n"


def is_reranked(task: AbsTask) -> bool:
    """Return True if the official evaluation reranks the task."""
    return bool(task.metadata.type == "Retrieval")


def _rerank_task(
    search: CandidateSearch,
    task: AbsTask,
    predictions: Predictions,
    folder: RunFolder,
    top_k: int,
    on_start: Callable[[AbsTask], None],
) -> Reranked:
    started = time.perf_counter()
    name, kind = task.metadata.name, str(task.metadata.type)
    first = None
    try:
        if isinstance(task, AbsTaskAggregate):
            parts = ", ".join(part.metadata.name for part in task.tasks)
            raise ResultsError(name, f"is an aggregate; rerank its parts: --tasks {parts}")
        if not isinstance(task, AbsTaskRetrieval):
            raise ResultsError(name, f"{kind} tasks do not rank documents and cannot be reranked")
        if "Reranking" not in kind:
            first = _prepare(task, predictions, folder, search, top_k)
    except Exception as error:
        logger.debug("task %s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        return Reranked(task=name, type=kind, first=None, score=None, seconds=seconds, error=reason)
    done = run_task(search, task, folder, on_start)
    if task.data_loaded:
        task.unload_data()
    return Reranked(
        task=name,
        type=kind,
        first=first,
        score=done.score,
        seconds=time.perf_counter() - started,
        error=done.error,
        kept=done.kept,
    )


def _prepare(
    task: AbsTaskRetrieval,
    predictions: Predictions,
    folder: RunFolder,
    search: CandidateSearch,
    top_k: int,
) -> float:
    """Add the candidates to the task and return the score of stage one."""
    name = task.metadata.name
    file = folder.path / FIRST_STAGE
    firsts: dict[str, dict[str, float]] = read_json(file) if file.exists() else {}
    wanted = [f"{subset}/{split}" for subset in task.hf_subsets for split in task.eval_splits]
    found = saved_result(search, task, folder)
    kept = firsts.setdefault(name, {})
    if found is None or not is_finished(found, task, folder) or not kept.keys() >= set(wanted):
        saved = predictions.of_task(task)
        if not task.data_loaded:
            task.load_data()
        task.convert_v1_dataset_format_to_v2(None)
        result = mteb.evaluate(
            SavedSearch(saved), task, cache=None, co2_tracker=False, show_progress_bar=False
        )
        kept |= main_scores(result.task_results[0], task)
        write_json(file, firsts)
        candidates = folder.path / f"{name}.candidates.json"
        write_json(candidates, saved.as_mteb(task, top_k))
        try:
            task.convert_to_reranking(candidates, top_k=top_k)
        finally:
            candidates.unlink()
    return fmean(kept[one] for one in wanted)

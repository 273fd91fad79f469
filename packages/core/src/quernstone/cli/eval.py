"""`quern eval`: run MTEB, rerank, summarise, and compare dimensions and instructions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.cli.eval_options import Benchmark, TaskOptions, commas, quiet_mteb
from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    EMBEDDING_MODEL,
    RERANKING_MODEL,
    Dimensions,
    EmbeddingModel,
    ModelOptions,
    RerankerOptions,
    RerankingModel,
    output_option,
)
from quernstone.cli.table import new_app
from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from quernstone import Embedder, Reranker
    from quernstone.evaluation.protocol import Protocol
    from quernstone.evaluation.run import Outcome
    from quernstone.types import RerankTemplate

app = new_app(
    no_args_is_help=True,
    help="Evaluate models on MTEB: run, rerank, summarise. Needs the extra `eval`.",
)


@app.command()
@expand_options
def run(
    *,
    output: Annotated[Path, output_option(help="Folder for this model's results.")],
    tasks: TaskOptions,
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    options: ModelOptions,
) -> None:
    """Run tasks on an embedding model.

    Results are saved after every subset: run the same command again to resume. A task that fails
    is reported, and the next one is run.
    """
    with quiet_mteb():
        selected = tasks.select()
        rules = tasks.rules(selected)
        with options.embedder(
            model, dimensions=dimensions, max_length=rules.max_length
        ) as embedder:
            outcomes = _run_tasks(embedder, selected, output, rules)
    _finish([one.task for one in outcomes if one.error], len(outcomes), output)


@app.command()
@expand_options
def rerank(
    *,
    predictions: Annotated[
        Path,
        typer.Option(
            help="The output of `quern eval run`, or a folder with predictions of the official "
            "scripts."
        ),
    ],
    output: Annotated[Path, output_option(help="Folder for this reranker's results.")],
    tasks: TaskOptions,
    candidates: Annotated[int, typer.Option(min=1, help="Documents to rerank per query.")] = 100,
    # the former spellings of --candidates and --template
    top_k: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    variant: Annotated[str | None, typer.Option(hidden=True)] = None,
    model: RerankingModel = RERANKING_MODEL,
    options: RerankerOptions,
) -> None:
    """Rerank what `run` found, and show where that helped.

    With --benchmark or --tasks-file only retrieval tasks are reranked. Tasks of the types Reranking
    and InstructionReranking, which come with candidates, must be named with --tasks.
    """
    with quiet_mteb():
        from quernstone.evaluation.predictions import Predictions
        from quernstone.evaluation.protocol import RERANK_MAX_LENGTH
        from quernstone.evaluation.rerank import comparison, is_reranked
        from quernstone.evaluation.rerank import rerank as rerank_tasks

        selected = tasks.select()
        if tasks.tasks is None:
            selected = [task for task in selected if is_reranked(task)]
        if not selected:
            raise ConfigError(
                "none of these tasks is of the type Retrieval; name some with --tasks"
            )
        rules = tasks.rules(selected)
        saved = Predictions(predictions)
        with options.reranker(
            model,
            default_template=cast("RerankTemplate", variant or rules.template),
            max_length=RERANK_MAX_LENGTH,
        ) as reranker:
            report = _Progress(selected, reranker)
            outcomes = rerank_tasks(
                reranker,
                selected,
                saved,
                output,
                rules,
                top_k=top_k or candidates,
                on_start=report.start,
                on_task=report.task,
                progress=True,
            )
    table = comparison(outcomes)
    (output / "reranked.md").write_text(table, encoding="utf-8")
    typer.echo(table, nl=False)
    _finish([one.task for one in outcomes if one.error], len(outcomes), output)


@app.command()
def summary(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of results, one per model.")
    ],
    benchmark: Benchmark = None,
    splits: Annotated[
        str,
        typer.Option(
            help="Splits of a task to average: first (like the official summary) or all (like "
            "mteb)."
        ),
    ] = "first",
    published: Annotated[
        bool, typer.Option(help="Add the scores that Qwen published for the benchmark.")
    ] = True,
    output: Annotated[
        Path | None, output_option(help="Also write summary.md, summary.json and summary.png here.")
    ] = None,
) -> None:
    """Summarise results: means over tasks and types, each task, missing tasks."""
    with quiet_mteb():
        from quernstone.evaluation.published import published_rows
        from quernstone.evaluation.summary import SplitRule, summarise
        from quernstone.evaluation.tables import as_json, markdown

        if splits not in ("first", "all"):
            raise ConfigError(f"--splits {splits!r}: use first or all")
        rule = cast("SplitRule", splits)
        found = [summarise(path, benchmark=benchmark, rule=rule) for path in folders]
        if len({one.name for one in found}) < len(found):
            rows_of = zip(found, folders, strict=True)
            found = [replace(one, name=f"{one.name} in {path}") for one, path in rows_of]
    rows = []
    if published and benchmark is not None:
        rows = published_rows(benchmark, reranking=any(one.reranked for one in found))
    text = markdown(found, rows)
    typer.echo(text, nl=False)
    if output is not None:
        from quernstone.evaluation.folder import write_json
        from quernstone.evaluation.plots import bar_chart

        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.md").write_text(text, encoding="utf-8")
        write_json(output / "summary.json", as_json(found, rows, benchmark=benchmark, splits=rule))
        bar_chart(output / "summary.png", found, rows, benchmark or "")


@app.command()
@expand_options
def mrl(
    *,
    output: Annotated[Path, output_option(help="Folder for mrl.json and mrl.png.")],
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="Lengths of vectors, separated by commas. (default: 32, 64, ... up to the model's "
            "own)"
        ),
    ] = None,
    tasks: TaskOptions,
    model: EmbeddingModel = EMBEDDING_MODEL,
    options: ModelOptions,
) -> None:
    """Measure what shorter vectors cost, from one embedding pass."""
    with quiet_mteb():
        from quernstone.evaluation.mrl import measure_dimensions
        from quernstone.evaluation.plots import curve

        lengths = [_whole_number(one) for one in commas(dimensions)]
        selected = tasks.select()
        rules = tasks.rules(selected)
        with options.embedder(model, max_length=rules.max_length) as embedder:
            report = _Progress(selected, embedder)
            curves = measure_dimensions(
                embedder,
                selected,
                output,
                rules,
                dimensions=lengths,
                on_start=report.start,
                on_task=report.curve,
                progress=True,
            )
        if curves:
            curve(output / "mrl.png", curves, model)
    names = [task.metadata.name for task in selected]
    _finish([name for name in names if name not in curves], len(names), output)


@app.command("instructions")
@expand_options
def compare_instructions(
    *,
    output: Annotated[
        Path, output_option(help="Folder for the table, and the folders `with` and `without`.")
    ],
    tasks: TaskOptions,
    model: EmbeddingModel = EMBEDDING_MODEL,
    dimensions: Dimensions = None,
    options: ModelOptions,
) -> None:
    """Run tasks with and without their instructions, and compare."""
    outcomes = []
    with quiet_mteb():
        from quernstone.evaluation.plots import bar_chart
        from quernstone.evaluation.summary import summarise
        from quernstone.evaluation.tables import markdown

        rules = tasks.rules(tasks.select())
        summaries = []
        with options.embedder(
            model, dimensions=dimensions, max_length=rules.max_length
        ) as embedder:
            for name, bare in (("with", False), ("without", True)):
                # select again: the random choices of a task depend on its earlier ones
                selected = tasks.select()
                outcomes += _run_tasks(embedder, selected, output / name, replace(rules, bare=bare))
                found = summarise(output / name, rule="all")
                summaries.append(replace(found, name=f"{name} instructions"))
        text = markdown(summaries)
        (output / "instructions.md").write_text(text, encoding="utf-8")
        bar_chart(output / "instructions.png", summaries, title=model)
    typer.echo(text, nl=False)
    _finish([one.task for one in outcomes if one.error], len(outcomes), output)


def _run_tasks(
    embedder: Embedder, selected: list[AbsTask], output: Path, rules: Protocol
) -> list[Outcome]:
    from quernstone.evaluation.run import run as run_tasks

    report = _Progress(selected, embedder)
    return run_tasks(
        *(embedder, selected, output, rules),
        on_start=report.start,
        on_task=report.task,
        progress=True,
    )


class _Progress:
    """Prints when each task starts and ends: lines on standard error."""

    def __init__(self, tasks: Sequence[AbsTask], model: Embedder | Reranker) -> None:
        self._model, self._cut = model, 0
        self._places = {
            task.metadata.name: f"{place}/{len(tasks)} {task.metadata.name} ({task.metadata.type})"
            for place, task in enumerate(tasks, 1)
        }

    def start(self, task: AbsTask) -> None:
        """Print the name of a task."""
        now = time.strftime("%H:%M")
        typer.echo(f"{self._places[task.metadata.name]}: started at {now}", err=True)

    def task(self, outcome: Any) -> None:
        """Print the score of a task, or why it failed."""
        if outcome.error:
            self._failed(outcome.task, outcome.error)
            return
        first = getattr(outcome, "first", None)
        before = "" if first is None else f"{100 * first:.2f} -> "
        after = f"computed on {outcome.kept}" if outcome.kept else f"{outcome.seconds:.1f} s"
        place = self._places[outcome.task]
        score = f"{before}{100 * outcome.score:.2f}"
        typer.echo(f"{place}: {score}, {after}{self._truncated()}", err=True)

    def curve(self, task: str, scores: dict[int, float], error: str) -> None:
        """Print the scores of a task at each length on standard output, or why it failed."""
        if error:
            self._failed(task, error)
            return
        line = "  ".join(f"{length}: {score:.2f}" for length, score in sorted(scores.items()))
        typer.echo(f"{task}  {line}{self._truncated()}")

    def _truncated(self) -> str:
        """Say how many inputs were cut since the last task."""
        before, self._cut = self._cut, self._model.usage.truncated
        if self._cut == before:
            return ""
        limit = f"{self._model.max_length:,} tokens"
        return f", {self._cut - before:,} inputs were cut to {limit}"

    def _failed(self, task: str, error: str) -> None:
        typer.echo(f"{self._places[task]}: FAILED: {' '.join(error.split())}", err=True)


def _finish(failed: Sequence[str], total: int, output: Path) -> None:
    """Print where the results are, and exit with code 1 if tasks failed."""
    typer.echo(f"{total - len(failed)} of {total} tasks done, results in {output}")
    if failed:
        typer.echo(f"failed: {', '.join(failed)}; run the command again to retry them", err=True)
        raise typer.Exit(1)


def _whole_number(text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"--dimensions: {text!r} is not a whole number")
    return int(text)

"""`quern bench`: measure how fast a model runs on this machine."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import (
    EngineOptions,
    Json,
    Revision,
    Template,
    TextField,
    default_model,
    fields_of,
    on_terminal,
)
from quernstone.cli.printing import facts_table, plain_table, print_json
from quernstone.cli.templates import read_template
from quernstone.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table

    from quernstone.bench import Rate, Report
    from quernstone.types import Dtype, EngineName, Task

_TASKS = ("auto", "embed", "rerank")
_MAX_TEXTS = 20_000


@expand_options
def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Hub id, local folder, or `tiny`. "
            "(default: QUERN_MODEL, or with --task rerank QUERN_RERANK_MODEL)",
        ),
    ] = None,
    *,
    task: Annotated[str, typer.Option(help="Task of the model: auto, embed, rerank.")] = "auto",
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own texts, JSONL or plain lines; the first 20,000 are used. "
            "(default: generated words in several languages, with typical lengths)",
        ),
    ] = None,
    text_field: TextField = None,
    seconds: Annotated[float, typer.Option(help="Minimum time of each measurement.")] = 4.0,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE",
            help="Also measure this engine: sentence-transformers, vllm, transformers, torch. "
            "May be repeated.",
        ),
    ] = None,
    as_json: Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Plot the rates to this .png file. Needs the extra `eval`."
        ),
    ] = None,
    revision: Revision = None,
    template: Template = None,
    options: EngineOptions,
) -> None:
    """Measure how fast a model runs on this machine, and find its best batch size.

    Tries several batch sizes (`max_batch_tokens`), measures the latency of single and concurrent
    calls with the best one, and compares the time with that of the matrix products alone.
    """
    if task not in _TASKS:
        raise ConfigError(f"--task {task}: use {', '.join(_TASKS)}")
    if plot is not None:
        _check_plot(plot)
    rendering = read_template(template)
    own_texts = None if texts is None else _texts(texts, text_field)

    from quernstone.bench import measure

    with _without_warnings():
        report = measure(
            model or default_model(task),
            task=None if task == "auto" else cast("Task", task),
            engine=cast("EngineName", options.engine),
            device=options.device,
            dtype=cast("Dtype", options.dtype),
            revision=revision,
            adapter=options.adapter,
            template=rendering,
            texts=own_texts,
            seconds=seconds,
            compare=cast("Sequence[EngineName]", compare or ()),
            progress=on_terminal(),
            announce=lambda sentence: typer.echo(sentence, err=True),
        )
    if plot is not None:
        from quernstone.bench.plot import plot_budgets

        plot_budgets(plot, report)
    if as_json:
        print_json(report.as_dict(), indent=True)
    else:
        _print_tables(report)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the log, because each run would warn of truncated texts; the report counts them."""
    logger = logging.getLogger("quernstone")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_plot(path: Path) -> None:
    """Reject a plot that cannot be written before measuring for minutes."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot {path}: the name must end in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: the folder `{path.parent}` does not exist")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "eval")


def _texts(path: Path, text_field: str | None) -> list[str]:
    from quernstone.cli.rows import RowInput
    from quernstone.tables import TableOptions

    rows = RowInput(path, "auto", TableOptions(text_field=fields_of(text_field))).texts()
    found = list(islice((row.text for row in rows if row.text.strip()), _MAX_TEXTS))
    if not found:
        raise ConfigError(f"--texts {path}: contains no text")
    return found


def _print_tables(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{report.model} ({report.task})", style="bold"))
    console.print(facts_table(report.environment))
    console.print(_budget_table(report))
    console.print(_latency_table(report))
    if report.comparisons:
        console.print(_comparison_table(report))
    for sentence in _conclusions(report):
        console.print(Text(sentence), soft_wrap=True)
    if report.noisy:
        console.print(
            Text(
                f"This machine is noisy: equal runs differed by up to {report.spread:.0%}. Close "
                "other programs and run it again, with more --seconds; differences smaller than "
                "that are not significant.",
                style="yellow",
            ),
            soft_wrap=True,
        )


def _table(columns: Sequence[str]) -> Table:
    table = plain_table()
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _budget_table(report: Report) -> Table:
    unit = "texts" if report.task == "embed" else "documents"
    columns = ["max_batch_tokens", "tokens/s", f"{unit}/s", "spread", "peak memory", ""]
    table = _table(columns)
    for budget in report.budgets:
        notes = [
            note
            for note, applies in (
                ("best", budget == report.best),
                ("default", budget.max_batch_tokens == report.default),
                ("out of memory", budget.out_of_memory),
            )
            if applies
        ]
        table.add_row(
            f"{budget.max_batch_tokens:,}",
            _rate(budget.tokens_per_second),
            _rate(budget.inputs_per_second),
            f"{budget.spread:.0%}",
            _size(budget.peak_memory),
            ", ".join(notes),
            style="bold" if budget == report.best else None,
        )
    return table


def _latency_table(report: Report) -> Table:
    table = _table(["latency", "p50 ms", "p95 ms", "p99 ms", "calls/s", "calls"])
    for latency in report.latencies:
        who = report.request if latency.callers == 1 else f"{latency.callers} callers at once"
        times = (f"{value:,.1f}" for value in (latency.p50, latency.p95, latency.p99))
        table.add_row(who, *times, _rate(latency.calls_per_second), f"{latency.calls:,}")
    return table


def _comparison_table(report: Report) -> Table:
    unit = "texts" if report.task == "embed" else "documents"
    table = _table(["engine", "tokens/s", f"{unit}/s", "spread", "times as long"])
    rows: list[tuple[str, Rate, float]] = [(report.environment["engine"], report.best, 1.0)]
    rows += [(other.engine, other, other.ratio) for other in report.comparisons]
    for name, rates, ratio in rows:
        table.add_row(
            name,
            _rate(rates.tokens_per_second),
            _rate(rates.inputs_per_second),
            f"{rates.spread:.0%}",
            f"{ratio:.2f}",
        )
    return table


def _conclusions(report: Report) -> Iterator[str]:
    work, best = report.workload, report.best
    if work.tokens is not None:
        yield f"Inputs have {work.median} tokens at the median, {work.p95} at the 95th percentile."
    if work.truncated:
        yield f"{work.truncated} of {work.inputs} inputs were too long for the model and were cut."
    default = next(one for one in report.budgets if one.max_batch_tokens == report.default)
    gain = best.inputs_per_second / default.inputs_per_second
    yield (
        f"Best: max_batch_tokens={best.max_batch_tokens}, "
        f"{gain:.2f} times the rate of the engine's own choice, {report.default}."
    )
    if report.floor is None:
        yield f"The time of the matrix products alone is unknown: {report.no_floor}."
    else:
        yield (
            "The model's matrix products alone would take "
            f"{report.floor.share:.0%} of the measured time on this machine."
        )


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"

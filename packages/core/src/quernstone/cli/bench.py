"""`quern bench`: how fast a model runs here, and with which budget of a batch."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.cli.options import Device, DtypeName, Engine, default_model, on_terminal
from quernstone.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from quernstone.bench import Rate, Report
    from quernstone.types import Dtype, EngineName, Task

_TASKS = ("auto", "embed", "rerank")
_MOST_TEXTS = 20_000


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Hub id, local folder, or `tiny`. "
            "(default: QUERN_MODEL, or with --task rerank QUERN_RERANK_MODEL)",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="auto, embed, rerank.")] = "auto",
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSONL or plain lines of yours, the first 20,000. "
            "(default: words of several languages in usual lengths)",
            show_default=False,
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(help="The text's name in JSONL. (default: text, content, page_content, body)"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each measurement, at least.")] = 4.0,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE",
            help="Run the same on this engine, too: sentence-transformers, vllm, transformers, "
            "torch. Can be given several times.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .png of the rates over the budgets. Needs the extra `eval`.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)
    ] = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
) -> None:
    """Measure a model on this machine, and find its best batch size.

    Tries budgets of a batch (`max_batch_tokens`), times single and concurrent calls at the best
    one, and says how much of the time the model's matrix products alone would take.
    """
    if task not in _TASKS:
        raise ConfigError(f"--task {task}: use {', '.join(_TASKS)}")
    if plot is not None:
        _check_plot(plot)
    given = None if texts is None else _texts(texts, text_field)

    from quernstone.bench import measure

    with _without_warnings():
        report = measure(
            model or default_model(task),
            task=None if task == "auto" else cast("Task", task),
            engine=cast("EngineName", engine),
            device=device,
            dtype=cast("Dtype", dtype),
            revision=revision,
            texts=given,
            seconds=seconds,
            compare=cast("Sequence[EngineName]", compare or ()),
            progress=on_terminal(),
            announce=lambda sentence: typer.echo(sentence, err=True),
        )
    if plot is not None:
        from quernstone.bench.plot import plot_budgets

        plot_budgets(plot, report)
    if as_json:
        _print_json(report)
    else:
        _print_tables(report)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Every run would say again that texts are cut; the report says it once."""
    logger = logging.getLogger("quernstone")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_plot(path: Path) -> None:
    """Say now, and not after minutes, that there will be no picture."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot {path}: the name must end in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder `{path.parent}`")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "eval")


def _texts(path: Path, text_field: str | None) -> list[str]:
    from quernstone.cli.rows import RowInput

    rows = RowInput(path, "auto", text_field).texts()
    found = list(islice((row.text for row in rows if row.text.strip()), _MOST_TEXTS))
    if not found:
        raise ConfigError(f"--texts {path}: holds no text")
    return found


def _print_json(report: Report) -> None:
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(report.as_dict(), option=options))


def _print_tables(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{report.model} ({report.task})", style="bold"))
    known = _table(None)
    for name, value in report.environment.items():
        known.add_row(Text(name, style="dim"), Text(value))
    console.print(known)
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
                "other programs and run it again, with more --seconds; smaller differences than "
                "that say nothing.",
                style="yellow",
            ),
            soft_wrap=True,
        )


def _table(columns: Sequence[str] | None) -> Any:
    from rich import box
    from rich.table import Table

    if columns is None:
        return Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _budget_table(report: Report) -> Any:
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


def _latency_table(report: Report) -> Any:
    table = _table(["latency", "p50 ms", "p95 ms", "p99 ms", "calls/s", "calls"])
    for latency in report.latencies:
        who = report.request if latency.callers == 1 else f"{latency.callers} callers at once"
        times = (f"{value:,.1f}" for value in (latency.p50, latency.p95, latency.p99))
        table.add_row(who, *times, _rate(latency.calls_per_second), f"{latency.calls:,}")
    return table


def _comparison_table(report: Report) -> Any:
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
        yield f"{work.truncated} of {work.inputs} were too long for the model, and cut."
    default = next(one for one in report.budgets if one.max_batch_tokens == report.default)
    gain = best.inputs_per_second / default.inputs_per_second
    yield (
        f"Best: max_batch_tokens={best.max_batch_tokens}, "
        f"{gain:.2f} times the rate of the engine's own choice, {report.default}."
    )
    if report.floor is None:
        yield f"Share of the floor: not known; {report.no_floor}."
    else:
        yield (
            "The model's matrix products alone, at this machine's own rate, would take "
            f"{report.floor.share:.0%} of the time."
        )


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"

"""Plot rates against budgets."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quernstone.bench.report import Rate, Report


def plot_budgets(path: Path, report: Report) -> None:
    """Plot the rate at each `max_batch_tokens`, with a horizontal line per compared engine.

    Raises:
        OSError: The file cannot be written.
    """

    def height(rate: Rate) -> float:
        return rate.inputs_per_second if rate.tokens_per_second is None else rate.tokens_per_second

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    fitting = [budget for budget in report.budgets if not budget.out_of_memory]
    places = [budget.max_batch_tokens for budget in fitting]
    axes.plot(
        places,
        [height(budget) for budget in fitting],
        marker="o",
        label=report.environment["engine"],
    )
    for number, other in enumerate(report.comparisons, start=1):
        axes.axhline(
            height(other),
            label=other.engine,
            color=f"C{number}",
            linestyle="--",
        )
    axes.axvline(report.best.max_batch_tokens, color="0.7", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,}" for place in places], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("max_batch_tokens (the grey line: the best)")
    axes.set_ylabel("inputs/s" if report.workload.tokens is None else "tokens/s")
    where = f"{report.environment['device']}, {report.environment['dtype']}"
    axes.set_title(f"{report.model} on {where}", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, format="png")

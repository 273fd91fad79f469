"""Charts of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import linspace

from quernstone.evaluation.published import PublishedRow
from quernstone.evaluation.summary import Summary


def bar_chart(
    path: Path,
    summaries: Sequence[Summary],
    published: Sequence[PublishedRow] = (),
    title: str = "",
) -> None:
    """Draw a group of bars for each mean, one bar per model; published ones are shades of gray."""
    types = list(dict.fromkeys(name for one in summaries for name in one.by_type))
    labels = ["mean (task)", "mean (type)", *types]
    rows: list[tuple[str, list[float | None]]] = [
        (one.label, [one.mean_task, one.mean_type, *(one.by_type.get(t) for t in types)])
        for one in summaries
    ]
    rows += [
        (f"{row.model} (published)", [row.mean_task, row.mean_type, *map(row.by_type.get, types)])
        for row in published
    ]
    width = 0.8 / len(rows)
    colors = [
        *_colors(len(summaries)),
        *(str(shade) for shade in linspace(0.85, 0.4, len(published))),
    ]
    with _figure(path, 4 + len(labels) * max(0.6, 0.1 * len(rows))) as axes:
        for place, (name, values) in enumerate(rows):
            at = [number - 0.4 + width * (place + 0.5) for number in range(len(labels))]
            heights = [0.0 if value is None else value for value in values]
            axes.bar(at, heights, width, label=name, color=colors[place])
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize=8)
        axes.set_ylabel("main score x 100")
        axes.set_title(title, fontsize=10)


def curve(path: Path, scores: Mapping[str, Mapping[int, float]], title: str = "") -> None:
    """Draw scores over dimensions, one line per task."""
    with _figure(path, 10.0) as axes:
        for (task, line), color in zip(scores.items(), _colors(len(scores)), strict=True):
            axes.plot(list(line), list(line.values()), marker="o", label=task, color=color)
        dimensions = sorted({one for line in scores.values() for one in line})
        axes.set_xscale("log", base=2)
        axes.set_xticks(dimensions, [str(one) for one in dimensions], fontsize=8)
        axes.set_xlabel("dimensions")
        axes.set_ylabel("main score x 100")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, alpha=0.3)


def _colors(count: int) -> list[Any]:
    """Return colors that differ: matplotlib repeats its own after ten."""
    if count <= 10:
        return [f"C{place}" for place in range(count)]
    return [*colormaps["turbo"](linspace(0.05, 0.95, count))]


@contextmanager
def _figure(path: Path, width: float) -> Iterator[Axes]:
    """Yield the axes of an empty chart and write it at the end of the block."""
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120)

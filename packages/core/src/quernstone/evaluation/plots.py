"""Charts of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quernstone.evaluation.published import PublishedRow
from quernstone.evaluation.summary import Summary


def bar_chart(
    path: Path,
    summaries: Sequence[Summary],
    published: Sequence[PublishedRow] = (),
    title: str = "",
) -> None:
    """Draw a group of bars for each mean, one bar per model; published ones are pale."""
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
    with _figure(path, max(6.0, 1.1 * len(labels))) as axes:
        for place, (name, values) in enumerate(rows):
            at = [number - 0.4 + width * (place + 0.5) for number in range(len(labels))]
            heights = [0.0 if value is None else value for value in values]
            alpha = 1.0 if place < len(summaries) else 0.4
            axes.bar(at, heights, width, label=name, alpha=alpha)
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize=8)
        axes.set_ylabel("main score x 100")
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def curve(path: Path, scores: Mapping[str, Mapping[int, float]], title: str = "") -> None:
    """Draw scores over dimensions, one line per task."""
    with _figure(path, 7.0) as axes:
        for task, by_dimensions in scores.items():
            axes.plot(list(by_dimensions), list(by_dimensions.values()), marker="o", label=task)
        dimensions = sorted({one for line in scores.values() for one in line})
        axes.set_xscale("log", base=2)
        axes.set_xticks(dimensions, [str(one) for one in dimensions], fontsize=8)
        axes.set_xlabel("dimensions")
        axes.set_ylabel("main score x 100")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)


@contextmanager
def _figure(path: Path, width: float) -> Iterator[Axes]:
    """Yield the axes of an empty chart and write it at the end of the block."""
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.add_subplot()
    figure.savefig(path, dpi=120)

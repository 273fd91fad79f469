"""Format results as tables, JSON and plots, with the machine they were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.timing import Result

_PACKAGES = ("torch", "transformers", "sentence-transformers")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def hardware(device: str) -> str:
    """Describe the processor and the features that determine its matrix speed."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    found = f"{_processor()}, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        found = f"{torch.cuda.get_device_name(device)}; {found}"
    return f"{found}; {versions}"


def table(result: Result) -> Table:
    """Return a table with a row per side."""
    output = Table(title=result.title, caption="\n".join(result.notes), title_justify="left")
    columns = (
        "side",
        "seconds",
        f"{result.unit}/s",
        "times the first",
        "expected",
        "of the floor",
        "slowest/fastest run",
    )
    for column in columns:
        output.add_column(column, justify="left" if column == "side" else "right")
    rows = zip(
        result.names,
        result.seconds,
        result.rates,
        result.ratios,
        result.expected,
        result.shares,
        result.spread,
        strict=True,
    )
    for name, seconds, rate, ratio, expected, share, spread in rows:
        output.add_row(
            name,
            f"{seconds:.4g}",
            f"{rate:,.1f}",
            f"{ratio:.2f}",
            "" if expected is None else f"{expected:.2f}",
            "" if share is None else f"{share:.0%}",
            f"{spread:.2f}",
        )
    return output


def write(results: Sequence[Result], machine: str, path: Path) -> None:
    """Return all figures as JSON."""
    content = {"hardware": machine, "results": [result.as_dict() for result in results]}
    path.write_text(json.dumps(content, indent=2))


def plot(results: Sequence[Result], machine: str, path: Path) -> None:
    """Plot a row of bars per result."""
    heights = [1 + 0.3 * len(result.names) for result in results]
    figure, axes = new_figure(
        len(results), 1, (8, sum(heights)), squeeze=False, height_ratios=heights
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        colours = ["tab:green", *["tab:gray"] * (len(result.names) - 1)]
        bars = axis.barh(result.names, result.seconds, color=colours)
        axis.bar_label(bars, [f" {ratio:.2f}x" for ratio in result.ratios])
        if result.floor:
            axis.axvline(result.floor, color="black", linestyle=":", linewidth=1)
        axis.set_title(result.title, fontsize=9, loc="left")
        dotted = "; dotted: its matrices alone" if result.floor else ""
        axis.set_xlabel(f"seconds, less is better{dotted}", fontsize=8)
        axis.set_xlim(0, max(result.seconds) * 1.15)
        axis.invert_yaxis()
    figure.suptitle(machine, fontsize=7)
    save(figure, path)


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """Return a figure that does not need a display, and its axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=size, **options)


def save(figure: Any, path: Path) -> None:
    """Write a PNG."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _processor() -> str:
    """Read the CPU family from Linux: it distinguishes processors with equal names."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    first = path.read_text().split("\n\n")[0].splitlines()
    lines = (line.partition(":") for line in first)
    facts = {key.strip(): value.strip() for key, _, value in lines}
    features = [name for name in _FEATURES if name in facts.get("flags", "").split()]
    name = facts.get("model name", platform.machine())
    kind = f"family {facts.get('cpu family')}, model {facts.get('model')}"
    return f"{name} ({kind}; {', '.join(features)})"

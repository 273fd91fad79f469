"""`python -m benchmarks`: every comparison, as a table, as JSON, and as a picture."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import concurrency, embedding, reranking, serving
from benchmarks.checkpoints import random_checkpoint
from benchmarks.timing import Result


def main(
    *,
    only: Annotated[
        str, typer.Option(help="One of embedding, reranking, concurrency, serving; all if empty.")
    ] = "",
    documents: Annotated[int, typer.Option(help="Documents to embed and to rerank.")] = 100,
    repeats: Annotated[int, typer.Option(help="Runs of each side, in turn.")] = 3,
    layers: Annotated[int, typer.Option(help="Depth of the random 0.6B checkpoint.")] = 28,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for both sides.")] = "bfloat16",
    folder: Annotated[Path, typer.Option(help="For checkpoints and results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure Quernstone and its peers side by side on this machine."""

    def checkpoint(layout: str) -> Path:
        return random_checkpoint(folder / f"{layout}-{layers}-layers", layout, layers=layers)  # type: ignore[arg-type]

    def embedding_model() -> Path:
        return checkpoint("embedding-0.6b")

    amounts = {"documents": documents, "repeats": repeats, "dtype": dtype}
    suites: dict[str, Callable[[], list[Result]]] = {
        "embedding": lambda: [embedding.run(embedding_model(), **amounts)],  # type: ignore[arg-type]
        "reranking": lambda: [reranking.run(checkpoint("reranker-0.6b"), **amounts)],  # type: ignore[arg-type]
        "concurrency": lambda: [
            concurrency.run("tiny", "tiny model", repeats=max(5, repeats)),
            concurrency.run(str(embedding_model()), "0.6B shape", repeats=repeats),
        ],
        "serving": lambda: [
            serving.run(f"/{framework}/search", repeats=max(5, repeats))
            for framework in ("langchain", "llamaindex")
        ],
    }
    if only and only not in suites:
        raise typer.BadParameter(f"{only!r} is none of {', '.join(suites)}", param_hint="--only")
    console = Console(width=110)
    hardware = f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    console.print(hardware)
    results: list[Result] = []
    for name in [only] if only else list(suites):
        for result in suites[name]():
            console.print(_table(result))
            results.append(result)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"hardware": hardware, "results": [result.as_dict() for result in results]}
    (folder / "results.json").write_text(json.dumps(content, indent=2))
    _plot(results, hardware, folder / "results.png")
    console.print(f"written: {folder}/results.json and {folder}/results.png")


def _table(result: Result) -> Table:
    table = Table(title=result.title, caption="\n".join(result.notes), title_justify="left")
    for column in ("side", "seconds", f"{result.unit}/s", "times ours", "slowest/fastest run"):
        table.add_column(column, justify="left" if column == "side" else "right")
    rows = zip(result.names, result.seconds, result.ratios, result.spread, strict=True)
    for name, seconds, ratio, spread in rows:
        rate = result.amount / seconds
        table.add_row(name, f"{seconds:.3f}", f"{rate:,.1f}", f"{ratio:.2f}", f"{spread:.2f}")
    return table


def _plot(results: list[Result], hardware: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(results), 1, figsize=(8, 1.7 * len(results)), squeeze=False)
    for axis, result in zip(axes[:, 0], results, strict=True):
        colours = ["tab:green", *["tab:gray"] * (len(result.names) - 1)]
        bars = axis.barh(result.names, result.seconds, color=colours)
        labels = [f" {ratio:.1f}x" for ratio in result.ratios]
        axis.bar_label(bars, labels)
        axis.set_title(result.title, fontsize=9, loc="left")
        axis.set_xlabel("seconds, less is better", fontsize=8)
        axis.set_xlim(0, max(result.seconds) * 1.15)
        axis.invert_yaxis()
    figure.suptitle(hardware, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    typer.run(main)

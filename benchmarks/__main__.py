"""Run every comparison: `python -m benchmarks` prints tables and writes JSON and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console
from tests.support.checkpoints import SHAPES

from benchmarks import (
    concurrency,
    embedding,
    latency,
    many,
    modes,
    report,
    reranking,
    scaling,
    serving,
)
from benchmarks.contenders import Setup
from benchmarks.texts import Mix
from benchmarks.timing import Result

Suite = Literal[
    "embedding",
    "mean",
    "reranking",
    "many",
    "modes",
    "latency",
    "scaling",
    "concurrency",
    "serving",
]


def main(
    *,
    only: Annotated[
        Suite | None, typer.Option(help="Measure this alone.", show_default="all")
    ] = None,
    mix: Annotated[
        Mix | None, typer.Option(help="Embed texts of this mix alone.", show_default="all")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(help="Texts to embed and to rerank.", show_default="by the mix")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each side, in turn.")] = 3,
    shape: Annotated[
        Literal["0.6b", "4b", "8b"], typer.Option(help="Whose shape the random checkpoints have.")
    ] = "0.6b",
    layers: Annotated[int | None, typer.Option(help="Their depth.", show_default="full")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for all sides.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda, for all sides.")] = "cpu",
    folder: Annotated[Path, typer.Option(help="For checkpoints and results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure Quernstone and its peers side by side on this machine."""
    setup = Setup(
        folder=folder,
        shape=shape,
        layers=layers or SHAPES[f"embedding-{shape}"].layers,
        dtype=dtype,
        device=device,
        repeats=repeats,
    )
    suites: dict[Suite, Callable[[], Iterator[Result]]] = {
        "embedding": lambda: (
            embedding.run(setup, name, documents) for name in ([mix] if mix else get_args(Mix))
        ),
        "mean": lambda: iter(
            [embedding.run(replace(setup, pooling="mean"), "docstring", documents)]
        ),
        "reranking": lambda: iter([reranking.run(setup, documents)]),
        "many": lambda: iter([many.run(setup, documents)]),
        "modes": lambda: iter([modes.run(setup, documents)]),
        "latency": lambda: iter([latency.run(setup)]),
        "scaling": lambda: iter([scaling.run(setup)]),
        "concurrency": lambda: (
            concurrency.run(model, title, expected=expected, repeats=max(5, repeats))
            for model, title, expected in (
                ("tiny", "tiny model", 4),
                (str(setup.checkpoint("Embedding")), str(setup), 2),
            )
        ),
        "serving": lambda: (
            serving.run(f"/{framework}/search", repeats=max(5, repeats))
            for framework in ("langchain", "llamaindex")
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    machine = report.hardware(device)
    console.print(machine)
    results: list[Result] = []
    for name in [only] if only else suites:
        for result in suites[name]():
            console.print(report.table(result))
            results.append(result)
            # after each comparison, because some take an hour
            report.write(results, machine, folder / "results.json")
            report.plot(results, machine, folder / "results.png")
    console.print(f"written: {folder}/results.json and {folder}/results.png")


if __name__ == "__main__":
    typer.run(main)

"""Compare this checkout with another one: `python -m benchmarks.versions OTHER_CHECKOUT`.

Embeds and reranks with a random checkpoint of a real shape. Both checkouts run in processes of
their own and take turns. Prints the median and the spread of each, and the ratio of the medians.
The side that is loaded first can be slower by more than 10 %: run with `--swap` as well.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.child import Child
from benchmarks.contenders import Setup
from benchmarks.texts import docstrings, queries
from benchmarks.timing import Result, TimedSide, compare

HERE = Path(__file__).parent.parent


def main(
    other: Annotated[Path, typer.Argument(help="Checkout to compare with.")],
    shape: str = "0.6b",
    layers: int = 28,
    dtype: str = "bfloat16",
    repeats: int = 5,
    texts: int = 32,
    swap: Annotated[bool, typer.Option(help="Load the other checkout first.")] = False,
) -> None:
    """Compare the speed of this checkout with that of another one."""
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            folder=Path(folder),
            shape=shape,
            layers=layers,
            dtype=dtype,
            device="cpu",
            repeats=repeats,
        )
        sides = {"this checkout": HERE, "the other": other.absolute()}
        if swap:
            sides = dict(reversed(sides.items()))
        for result in (_embedding(setup, sides, texts), _reranking(setup, sides, texts)):
            print(result.title)
            for name, seconds, spread, ratio in zip(
                result.names, result.seconds, result.spread, result.ratios, strict=True
            ):
                print(f"  {name}: {seconds:.2f} s, slowest/fastest {spread:.3f}, ratio {ratio:.3f}")


def _embedding(setup: Setup, checkouts: dict[str, Path], count: int) -> Result:
    return _compared(setup, checkouts, "Embedding", ("documents", docstrings(count)), count)


def _reranking(setup: Setup, checkouts: dict[str, Path], count: int) -> Result:
    call = ("score", queries(1)[0], docstrings(count))
    return _compared(setup, checkouts, "Reranking", call, count)


def _compared(
    setup: Setup, checkouts: dict[str, Path], kind: str, call: tuple[object, ...], count: int
) -> Result:
    settings = {"model": str(setup.checkpoint(kind)), "dtype": setup.dtype, "device": setup.device}
    with ExitStack() as stack:
        sides = []
        for name, checkout in checkouts.items():
            path = os.pathsep.join([str(checkout / "packages" / "core" / "src"), str(HERE)])
            child = stack.enter_context(
                Child(f"benchmarks.sides.ours:{kind}", environment={"PYTHONPATH": path}, **settings)
            )
            child.run(*call)  # warm up
            sides.append(TimedSide(name, lambda child=child: child.run(*call)))
        return compare(
            f"{kind} of {count} texts, {setup.shape} shape, {setup.layers} layers",
            sides,
            unit="texts",
            amount=count,
            repeats=setup.repeats,
        )


if __name__ == "__main__":
    typer.run(main)

"""Measure time per token and memory against the number of texts, with the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import OURS, Setup
from benchmarks.report import new_figure, save
from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, TimedSide, compare

COUNTS = (1_000, 5_000, 20_000, 50_000)
_POOL = 500
"""Number of distinct docstrings; longer lists repeat them, so lengths stay the same."""


def run(setup: Setup) -> Result:
    """Measure the time per token of `Embedder.stream`, and the peak memory of its process.

    Each number of texts has its own process. Expected: the same time within 10 % for all
    numbers of texts, and no more memory for 50,000 than for 5,000. Draws both.
    """
    texts = docstrings(_POOL)
    with ExitStack() as stack:
        children = [stack.enter_context(OURS.start("Embedding", setup, "tiny")) for _ in COUNTS]
        [pool_tokens, *_] = [child.get("stream", texts, _POOL) for child in children]
        sides: list[Side] = [
            TimedSide(
                f"{count:,} texts",
                lambda child=child, count=count: child.run("stream", texts, count),
                expected=1.0,
            )
            for child, count in zip(children, COUNTS, strict=True)
        ]
        result = compare(
            f"1,000 tokens of many, tiny model, mix docstring, {setup.dtype}, {setup.device}",
            sides,
            unit="tokens",
            amount=1000,
            repeats=setup.repeats,
        )
        peaks = [child.get("peak_bytes") / (1 << 20) for child in children]
    for side, peak in zip(sides, peaks, strict=True):
        result.notes.append(f"most memory with {side.name}: {peak:,.0f} MiB")
    seconds = [
        median / (count / _POOL * pool_tokens) * result.amount
        for median, count in zip(result.seconds, COUNTS, strict=True)
    ]
    _plot([one / result.amount * 1e6 for one in seconds], peaks, setup.folder / "scaling.png")
    return replace(result, seconds=seconds)


def _plot(microseconds: Sequence[float], peaks: Sequence[float], path: Path) -> None:
    figure, (left, right) = new_figure(1, 2, (9, 3.5))
    left.plot(COUNTS, microseconds, marker="o", color="tab:green")
    left.axhspan(0.9 * microseconds[0], 1.1 * microseconds[0], color="tab:gray", alpha=0.2)
    left.set_ylabel("µs per token; grey: 10 % off the first")
    right.plot(COUNTS, peaks, marker="o", color="tab:green")
    right.set_ylabel("most memory, MiB")
    for axis, figures in ((left, microseconds), (right, peaks)):
        axis.set_ylim(0, 1.2 * max(figures))
        axis.set_xlabel("texts")
    save(figure, path)

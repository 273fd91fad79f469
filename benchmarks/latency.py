"""Measure how much time `embed_query` adds to the matrix products of one short query."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from benchmarks.child import Child
from benchmarks.contenders import OURS, Setup
from benchmarks.embedding import token_counts
from benchmarks.texts import queries
from benchmarks.timing import Result, TimedSide, compare
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, query_frame

EXPECTED = 1 / 1.15
"""Minimum share of the time of `embed_query` that the matrices alone should take."""
_REPEATS = 30
_PAUSE_SECONDS = 0.05


def run(setup: Setup) -> Result:
    """Compare the median query with the same number of tokens through all stored matrices."""
    lines = queries(100)
    frame = query_frame(DEFAULT_INSTRUCTION)
    lengths = token_counts(setup.checkpoint("Embedding"), [frame + line for line in lines])
    tokens = int(np.median(lengths))
    same = [line for line, length in zip(lines, lengths, strict=True) if length == tokens]
    asked = itertools.cycle(same)
    forward = Child(
        "benchmarks.sides.matrices:Forward",
        model=str(setup.checkpoint("Embedding")),
        dtype=setup.dtype,
        device=setup.device,
    )
    with OURS.start("Embedding", setup) as ours, forward:
        sides = [
            TimedSide("embed_query", lambda: ours.run("query", next(asked))),
            TimedSide("its matrices", lambda: forward.get("seconds", tokens), EXPECTED),
        ]
        for side in sides:  # warm up
            side.run()
        result = compare(
            f"One query of {tokens} tokens, {setup}",
            list(sides),
            unit="queries",
            amount=1,
            repeats=max(_REPEATS, setup.repeats),
            pause=_PAUSE_SECONDS,
        )
    for side in sides:
        p50, p95 = np.percentile(side.seconds, [50, 95]) * 1000
        result.notes.append(f"{side.name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    return replace(result, floor=sides[1].median)

"""Compare our own options: how much time rounding, float32 and `deterministic` take."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.contenders import OURS, Setup
from benchmarks.embedding import least_cosine, token_counts
from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, TimedSide, compare

DOCUMENTS = 40
Modes = dict[str, tuple[dict[str, Any], float | None]]
"""Settings of each mode, and its expected time as a multiple of the default's."""
_ON_CPU: Modes = {
    'dtype="int8"': ({"dtype": "int8"}, 0.75),
    'dtype="float32"': ({"dtype": "float32"}, 2.0),
    "deterministic=True": ({"deterministic": True}, 1.25),
}
_ON_GPU: Modes = {
    'dtype="fp8"': ({"dtype": "fp8"}, None),
    'dtype="float32"': ({"dtype": "float32"}, None),
    "deterministic=True": ({"deterministic": True}, None),
}


def run(setup: Setup, documents: int | None) -> Result:
    """Embed docstrings in each mode, each in its own process."""
    texts = docstrings(documents or DOCUMENTS)
    notes, sides = [], list[Side]()
    with ExitStack() as stack:
        plain = stack.enter_context(OURS.start("Embedding", setup))
        sides.append(TimedSide(setup.dtype, lambda: plain.run("documents", texts)))
        vectors = plain.get("documents", texts)
        modes = _ON_CPU if setup.device == "cpu" else _ON_GPU
        for name, (settings, expected) in modes.items():
            child = stack.enter_context(OURS.start("Embedding", setup, **settings))
            least = least_cosine(vectors, child.get("documents", texts))
            notes.append(f"{name}: least cosine to {setup.dtype} {least:.5f}")
            sides.append(
                TimedSide(name, lambda child=child: child.run("documents", texts), expected)
            )
        return compare(
            f"Embedding {len(texts)} texts, mix docstring, in several modes, {setup}",
            sides,
            unit="tokens",
            amount=sum(token_counts(setup.checkpoint("Embedding"), texts)),
            repeats=setup.repeats,
            notes=notes,
        )

"""Our own options beside each other: what int8, float32 and `deterministic` cost or save."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.contenders import OURS, Setup
from benchmarks.embedding import least_cosine, token_counts
from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, TimedSide, compare

DOCUMENTS = 40
MODES: dict[str, tuple[dict[str, Any], float]] = {
    'dtype="int8"': ({"dtype": "int8"}, 0.75),
    'dtype="float32"': ({"dtype": "float32"}, 2.0),
    "deterministic=True": ({"deterministic": True}, 1.25),
}
"""Settings beside those of all sides, and how many times as long each should take on a CPU."""


def run(setup: Setup, documents: int | None) -> Result:
    """Embed docstrings in each mode, in processes of their own."""
    texts = docstrings(documents or DOCUMENTS)
    notes, sides = [], list[Side]()
    with ExitStack() as stack:
        plain = stack.enter_context(OURS.start("Embedding", setup))
        sides.append(TimedSide(setup.dtype, lambda: plain.run("documents", texts)))
        vectors = plain.get("documents", texts)
        for name, (settings, expected) in MODES.items():
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

"""Real texts of realistic lengths: docstrings of the standard library and installed packages."""

from __future__ import annotations

import ast
import importlib.util
import random
import sysconfig
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

_SHORTEST = 150
PACKAGES = ("torch", "transformers", "numpy", "sklearn")
"""With thousands of docstrings each; the group `benchmarks` installs all of them."""


def docstrings(count: int, seed: int = 0) -> list[str]:
    """A sample of docstrings, short and long mixed as they are found. Deterministic.

    Of those with at least 150 characters: a median of 71 tokens of Qwen3, 331 at the 95th
    percentile.
    """
    return random.Random(seed).sample(_all_docstrings(), count)


def chunks_and_questions(
    chunks: int, questions: int, *, size: int = 600, packages: Sequence[str] = PACKAGES
) -> tuple[list[str], list[str]]:
    """Chunks of docstrings, all different, and questions that they may answer. Deterministic.

    A question is the first paragraph of a docstring that is not among the chunks.

    Args:
        chunks: How many.
        questions: How many.
        size: Most characters per chunk.
        packages: Where to look beside the standard library. Other versions have other texts.
    """
    from quernstone_qdrant.chunking import Chunker
    from quernstone_qdrant.records import Record

    texts = [text for root in _roots(packages) for text in _docstrings_in(root)]
    texts = list(dict.fromkeys(texts))
    random.Random(0).shuffle(texts)
    first = (" ".join(text.split("\n\n")[0].split()) for text in texts[:questions])
    chunker, found = Chunker(size), {}
    for number, text in enumerate(texts[questions:]):
        found |= dict.fromkeys(
            chunk.text.strip() for chunk in chunker.split(Record(str(number), text))
        )
        if len(found) >= chunks:
            return list(found)[:chunks], list(first)
    raise ValueError(f"there are {len(found)} chunks, fewer than {chunks}")


@lru_cache(maxsize=1)
def _all_docstrings() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    return list(dict.fromkeys(_docstrings_in(root)))


def _roots(packages: Sequence[str]) -> list[Path]:
    specs = [importlib.util.find_spec(name) for name in packages]
    found = [
        Path(place) for spec in specs if spec for place in spec.submodule_search_locations or []
    ]
    return [Path(sysconfig.get_path("stdlib")), *found]


def _docstrings_in(root: Path) -> Iterator[str]:
    left_out = {"test", "tests", "site-packages", "lib2to3", "idlelib"}
    for path in sorted(root.rglob("*.py")):
        if not left_out & set(path.relative_to(root).parts):
            yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # test data of packages: for a newer Python, or broken on purpose
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and len(text) >= _SHORTEST:
            yield text

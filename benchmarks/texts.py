"""Real texts of realistic lengths: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_SHORTEST = 150


def docstrings(count: int, seed: int = 0) -> list[str]:
    """A sample of docstrings, short and long mixed as they are found. Deterministic.

    Of those with at least 150 characters: a median of 71 tokens of Qwen3, 331 at the 95th
    percentile.
    """
    return random.Random(seed).sample(_all_docstrings(), count)


@lru_cache(maxsize=1)
def _all_docstrings() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not {"test", "tests", "site-packages", "lib2to3", "idlelib"} & set(path.parts)
    ]
    return list(dict.fromkeys(text for path in files for text in _docstrings_of(path)))


def _docstrings_of(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and len(text) >= _SHORTEST:
            yield text

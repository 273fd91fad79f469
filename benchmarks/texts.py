"""Real texts of realistic lengths: docstrings of the standard library and installed packages."""

from __future__ import annotations

import ast
import bisect
import importlib.util
import math
import random
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Literal

_SHORTEST = 150
PACKAGES = ("torch", "transformers", "numpy", "sklearn")
"""Packages with thousands of docstrings each; the group `benchmarks` installs all of them."""

Mix = Literal["short", "docstring", "long"]
DOCUMENTS: Mapping[Mix, int] = {"short": 200, "docstring": 100, "long": 4}
"""Number of texts of each mix that take about the same time."""

# Lengths are chosen by characters, which needs no tokenizer.
_CHARS_PER_TOKEN = 4.4
_MEDIAN_TOKENS, _P95_TOKENS = 76, 507
_LONG_TOKENS = (1700, 6500)  # long texts have more tables, and so more tokens than that
_QUERY_WORDS = range(6, 11)


def mix(name: Mix, count: int) -> list[str]:
    """Return texts of one mix of lengths. Deterministic.

    `short` are lines like queries, of about ten tokens; `docstring` is `docstrings`; `long` are
    joined docstrings of 2,000 to 8,000 tokens.
    """
    return {"short": queries, "docstring": docstrings, "long": _long_texts}[name](count)


def docstrings(count: int, seed: int = 0) -> list[str]:
    """Return docstrings whose lengths are distributed as in large code bases. Deterministic.

    The distribution is log-normal, with a median of about 76 tokens of Qwen3 and 507 at the 95th
    percentile, for any count; docstrings of the standard library alone are shorter.
    """
    choose = random.Random(seed)
    pool = sorted(_all_docstrings(), key=len)
    lengths = [len(text) for text in pool]
    sigma = math.log(_P95_TOKENS / _MEDIAN_TOKENS) / NormalDist().inv_cdf(0.95)
    spread = NormalDist(math.log(_MEDIAN_TOKENS * _CHARS_PER_TOKEN), sigma)
    found = []
    for place in range(count):
        at = bisect.bisect(lengths, math.exp(spread.inv_cdf((place + 0.5) / count)))
        at = min(max(0, at + choose.randint(-2, 2)), len(pool) - 1)
        lengths.pop(at)
        found.append(pool.pop(at))
    choose.shuffle(found)
    return found


def queries(count: int) -> list[str]:
    """Return first lines of docstrings of six to ten words, like queries. Deterministic."""
    lines = (text.splitlines()[0] for text in _all_docstrings())
    fitting = dict.fromkeys(line for line in lines if len(line.split()) in _QUERY_WORDS)
    return random.Random(0).sample(list(fitting), count)


def _long_texts(count: int) -> list[str]:
    shortest, longest = (tokens * _CHARS_PER_TOKEN for tokens in _LONG_TOKENS)
    left = iter(_all_docstrings())
    found = []
    for place in range(count):
        size, text = shortest + (longest - shortest) * (place + 0.5) / count, ""
        while len(text) < size:
            text += next(left) + "\n\n"
        found.append(text[: int(size)])
    return found


def chunks_and_questions(
    chunks: int, questions: int, *, size: int = 600, packages: Sequence[str] = PACKAGES
) -> tuple[list[str], list[str]]:
    """Return distinct chunks of docstrings, and questions that they may answer. Deterministic.

    A question is the first paragraph of a docstring that is not among the chunks.

    Args:
        chunks: Number of chunks.
        questions: Number of questions.
        size: Maximum number of characters per chunk.
        packages: Packages to read besides the standard library. Other versions have other texts.
    """
    from quernstone_qdrant.documents.chunking import Chunker
    from quernstone_qdrant.documents.records import Record

    found_in = (text for root in _roots(packages) for text in _docstrings_in(root))
    texts = [text for text in found_in if len(text) >= _SHORTEST]
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
    except SyntaxError:  # test data of packages: for a newer Python, or intentionally broken
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text

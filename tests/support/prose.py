"""Read the English of Python files: docstrings, comments and messages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.syntax import parse


@dataclass(frozen=True)
class Passage:
    """A docstring, a block of comments, or a string of the code."""

    path: Path
    line: int
    text: str
    is_docstring: bool = False


def passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a file, each with its line breaks replaced by spaces."""
    source = path.read_text()
    tree = parse(path)
    docstrings = set(_docstrings(tree))
    parts = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(tree):
        if node in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
            yield Passage(path, node.lineno, _one_line(text))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Passage(path, node.lineno, _one_line(node.value), node in docstrings)
    yield from _comments(path, source)


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield every string that stands as a statement: also those under attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _comments(path: Path, source: str) -> Iterator[Passage]:
    start, column, lines = 0, 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if lines and token.start != (start + len(lines), column):
                yield Passage(path, start, _one_line(" ".join(lines)))
                lines = []
            if not lines:
                start, column = token.start
            lines.append(token.string.lstrip("# "))
    if lines:
        yield Passage(path, start, _one_line(" ".join(lines)))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()

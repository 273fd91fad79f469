"""The import graph of the packages, read from their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.syntax import parse

Graph = dict[str, set[str]]
"""Module -> the modules of the same package that it imports anywhere in its source."""


def import_graph(source: Path, package: str) -> Graph:
    """Read all imports, also those inside functions and under `TYPE_CHECKING`.

    Args:
        source: The folder on `sys.path` that holds the package.
        package: Name of the package's folder.
    """
    files = {_module(path, source): path for path in (source / package).rglob("*.py")}
    return {
        module: {name for name in _imported(path, files) if name != module}
        for module, path in files.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or not."""
    reachable = {module: _reachable(graph, module) for module in graph}
    groups = {
        tuple(sorted(other for other in reachable[module] if module in reachable[other]))
        for module in graph
        if module in reachable[module]
    }
    return [list(group) for group in sorted(groups)]


def _module(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, files: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in files:
                    yield name
                elif node.module in files:
                    yield node.module


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found

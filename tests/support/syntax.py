"""Syntax trees of our own code."""

import ast
import gc
from pathlib import Path


def parse(path: Path) -> ast.Module:
    """Parse a file; see `parse_text`."""
    return parse_text(path.read_text(encoding="utf-8"))


def parse_text(source: str) -> ast.Module:
    """Parse code while the garbage collector is off.

    Python 3.11 fails with "AST constructor recursion depth mismatch" if something is parsed
    inside a parse, as a traceback is when an object that is collected raises.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if was_on:
            gc.enable()

"""Print reports: JSON for programs, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from rich.table import Table


def print_json(value: object, *, indent: bool = False) -> None:
    """Write JSON to standard output: one line, or indented for reading."""
    options = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    sys.stdout.buffer.write(orjson.dumps(value, option=options))
    sys.stdout.buffer.flush()


def facts_table(facts: Mapping[str, str]) -> Table:
    """Build a table of names and values without lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def plain_table() -> Table:
    """Build an empty table with a line under its header."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1))

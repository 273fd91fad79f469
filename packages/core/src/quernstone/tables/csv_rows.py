"""Parse CSV so that an error affects only its own row."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator

_LONGEST = 64 << 20
"""Characters that a row may have: twice the size of the largest point."""

_DELIMITERS = ",;\t|"

# The default limit of 128 KiB is too short for long texts.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def csv_rows(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str] | csv.Error]:
    """Yield the values of each row, from the header on, and an error in place of a bad row.

    An unclosed quote makes the parser continue into the next rows. So after an error, only the line
    at which the row began is skipped, and parsing resumes at the line after it. The same applies to
    a row of several lines with a wrong number of values, if each line after the first is a valid
    row by itself.
    """
    source = _Lines(lines)
    columns = None
    while True:
        rows = csv.reader(source, strict=True, delimiter=delimiter)
        for row in _rows_or_error(rows, source):
            if isinstance(row, csv.Error):
                source.give_back()
                yield row
                break
            columns = columns or len(row)
            if len(row) not in (0, columns) and _are_rows(source.taken[1:], columns, delimiter):
                source.give_back()
                yield csv.Error("a quote is not closed")
                break
            yield row
            source.taken.clear()
        else:
            return


def _rows_or_error(rows: Iterator[list[str]], source: _Lines) -> Iterator[list[str] | csv.Error]:
    source.taken.clear()
    try:
        yield from rows
    except csv.Error as error:
        yield error


class _Lines:
    """An iterator of lines that can be rewound to the second line of the current row."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._returned: deque[str] = deque()
        self.taken: list[str] = []
        """Lines of the current row."""
        self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self._size = self._size + len(line) if self.taken else len(line)
        self.taken.append(line)
        if self._size > _LONGEST and len(self.taken) > 1:
            raise csv.Error(f"a quoted value does not end within {_LONGEST >> 20} MiB")
        return line

    def give_back(self) -> None:
        """Return all lines of the current row but the first one."""
        self._returned.extendleft(reversed(self.taken[1:]))


def _are_rows(lines: list[str], columns: int, delimiter: str) -> bool:
    """Return True if each line is a row with the right number of values and no open quote."""
    if any(line.count('"') % 2 for line in lines):
        return False
    try:
        rows = list(csv.reader(lines, strict=True, delimiter=delimiter))
    except csv.Error:
        return False
    return len(rows) == len(lines) > 0 and all(len(row) == columns for row in rows)


def sniffed_delimiter(lines: list[str]) -> str:
    """Return the delimiter that splits the first lines of a file into equal numbers of columns.

    Among equals, the one with the most columns is chosen, and a comma before the others.
    """

    def fitness(delimiter: str) -> tuple[float, int]:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            return 0, 0
        columns = len(rows[0]) if rows else 0
        if columns < 2:
            return 0, 0
        return sum(len(row) == columns for row in rows if row) / len(rows), columns

    return max(_DELIMITERS, key=fitness)

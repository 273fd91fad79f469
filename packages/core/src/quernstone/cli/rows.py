"""Input of `embed` and `rerank`: JSON Lines or plain lines, from a file or a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from quernstone.encoding.json_lines import parse_json
from quernstone.errors import ConfigError, InputError, QuernstoneError
from quernstone.types import TEXT_FIELDS

FORMATS = ("auto", "jsonl", "lines")

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_BOM = b"\xef\xbb\xbf"


class LineError(QuernstoneError, ValueError):
    """A line of the input cannot be used."""

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(source, line, reason)
        self.source, self.line, self.reason = source, line, reason

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the input."""

    source: str
    line: int
    fields: dict[str, Any]
    text: str

    def error(self, error: InputError) -> LineError:
        """Convert a model's error about one input to an error about this line."""
        reason = str(error).removeprefix(f"input {error.index}").lstrip(": ")
        return LineError(self.source, self.line, reason)


class RowInput:
    """Reads rows from a file or standard input.

    Args:
        path: `-` is standard input.
        layout: `jsonl`, `lines` (each line is a text), or `auto`: by the file extension, or by the
            first character of standard input.
        text_field: Field that holds the text. None: the first of `TEXT_FIELDS` that exists.
        id_field: A field that every row must have.

    Raises:
        ConfigError: The format is unknown, or the file does not exist.
    """

    def __init__(
        self,
        path: Path,
        layout: str = "auto",
        text_field: str | None = None,
        id_field: str | None = None,
    ) -> None:
        if layout not in FORMATS:
            raise ConfigError(f"unknown input format {layout!r}; use {', '.join(FORMATS)}")
        if str(path) != "-" and not path.is_file():
            raise ConfigError(f"INPUT {path}: no such file")
        self.path = path
        self.name = "standard input" if str(path) == "-" else str(path)
        self.text_field, self.id_field = text_field, id_field
        self._layout = layout

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (line number, object). A plain line becomes `{"text": line}`.

        Raises:
            LineError: A line is not UTF-8, not JSON, or not an object.
        """
        with self._open() as file:
            first = file.readline().removeprefix(_BOM)
            if not first:
                return
            lines: Iterable[bytes] = chain([first], file)
            if self._is_json(first):
                yield from self._objects(lines)
            else:
                yield from self._texts(lines)

    def texts(self) -> Iterator[Row]:
        """Yield the rows with their texts.

        Raises:
            LineError: As in `rows`, or a row lacks a text or the id field.
        """
        for number, fields in self.rows():
            if self.id_field is not None and self.id_field not in fields:
                raise LineError(self.name, number, f"no `{self.id_field}`")
            yield Row(self.name, number, fields, self.text(number, fields))

    def text(self, number: int, row: dict[str, Any]) -> str:
        """Return the text of a row, or of a document in a row.

        Raises:
            LineError: The object has no text, or the text is not a string.
        """
        name = self.text_field or next((field for field in TEXT_FIELDS if field in row), None)
        if name is None or name not in row:
            wanted = f"`{self.text_field}`" if self.text_field else " or ".join(TEXT_FIELDS)
            has = ", ".join(f"`{field}`" for field in row) or "nothing"
            raise LineError(
                self.name, number, f"no text: expected {wanted}, it has {has}; use --text-field"
            )
        value = row[name]
        if not isinstance(value, str):
            raise LineError(self.name, number, f"`{name}` is not a string")
        return value

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if str(self.path) == "-":
            return nullcontext(sys.stdin.buffer)
        return self.path.open("rb")

    def _is_json(self, first: bytes) -> bool:
        if self._layout != "auto":
            return self._layout == "jsonl"
        if str(self.path) == "-":
            return first.lstrip().startswith(b"{")
        return self.path.suffix.lower() in _JSON_SUFFIXES

    def _objects(self, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row, _ = parse_json(line)
            except json.JSONDecodeError as error:
                reason = f"not JSON: {error.msg} at column {error.colno}"
                raise LineError(self.name, number, reason) from error
            if not isinstance(row, dict):
                reason = f"not a JSON object but a {type(row).__name__}"
                raise LineError(self.name, number, reason)
            yield number, row

    def _texts(self, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: {error.reason} at byte {error.start}"
                raise LineError(self.name, number, reason) from error
            yield number, {"text": text.rstrip("\r\n")}

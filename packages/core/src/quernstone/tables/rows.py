"""Read the rows of tables, and an error in place of each invalid row."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from quernstone.encoding.json_lines import parse_json
from quernstone.errors import MissingExtraError, SourceError
from quernstone.tables.csv_rows import csv_rows, sniffed_delimiter
from quernstone.tables.files import FORMATS, Format, is_standard_input, open_file, suffix_of
from quernstone.tables.options import TableOptions
from quernstone.tables.types import CONVERTERS, convert

_SAMPLE = 1000
_SNIFFED_LINES = 20
_LEADING_ZERO = re.compile(r"[-+]?0\d")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Byte order marks of UTF-16."""
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row of a table."""

    number: int
    """Number of the row, from 1: the line in JSON Lines and plain lines, else without a header."""
    fields: dict[str, Any]


def _any_columns(columns: list[str]) -> Collection[str]:  # noqa: ARG001
    return ()


@dataclass(slots=True, kw_only=True)
class TableReader:
    """A reader of one file or of standard input."""

    path: Path
    """`-` is standard input."""
    name: str
    """Name of the file in messages."""
    options: TableOptions = field(default_factory=TableOptions)
    layout: Format | None = None
    """Format of the table; None: by the suffix of the file, or by the first bytes of standard
    input. What is neither JSON Lines nor Parquet counts as plain lines."""
    guesses_lines: bool = True
    """False refuses standard input that is neither JSON Lines nor Parquet, if `layout` is None."""
    check: Callable[[list[str]], Collection[str]] = _any_columns
    """Called with the columns of a file with a header or schema before its first row. It may raise
    a `SourceError`, and returns the columns that must stay strings."""
    values: Counter[str] = field(default_factory=Counter)
    """Counts the values that are converted, by a description of the conversion."""

    def rows(self) -> Iterator[Row | SourceError]:
        """Yield the rows in order, and a `SourceError` in place of each invalid one.

        Raises:
            SourceError: The file is damaged, or its columns are refused.
            OSError: The file cannot be opened.
            MissingExtraError: The format needs pyarrow.
        """
        layout = self.layout
        if layout is None and not is_standard_input(self.path):
            layout = FORMATS.get(suffix_of(self.path), "lines")
        if layout == "parquet":
            yield from self._parquet()
            return
        try:
            with open_file(self.path) as file:
                if layout is None:
                    start = file.peek(64).removeprefix(_BOM).lstrip()
                    if start.startswith(b"PAR1"):
                        yield from self._parquet(file)
                        return
                    layout = "jsonl" if start.startswith(b"{") else "lines"
                    if layout == "lines" and start and not self.guesses_lines:
                        raise SourceError(
                            self.name,
                            "is neither JSON Lines nor Parquet: name its format by `input_format` "
                            "(`--input-format`), such as csv or lines",
                        )
                self._check_encoding(file, layout)
                yield from _READERS[layout](self, file)
        except (EOFError, zlib.error) as error:
            raise SourceError(self.name, f"is damaged: {error}") from error

    def _check_encoding(self, file: io.BufferedReader, layout: Format) -> None:
        """Raise a `SourceError` for UTF-16, of which no row would be readable."""
        if layout == "parquet" or not file.peek(2).startswith(UTF_16):
            return
        reason = "is UTF-16, according to its byte order mark: convert it to UTF-8"
        if layout != "csv":  # lines are split before they are decoded
            raise SourceError(self.name, reason)
        if codecs.lookup(self.options.encoding).name != "utf-16":
            raise SourceError(self.name, f"{reason}, or pass --encoding utf-16")

    def _jsonl(self, file: io.BufferedReader) -> Iterator[Row | SourceError]:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if not line.strip():
                continue
            try:
                if self.options.encoding != "utf-8":
                    line = line.decode(self.options.encoding).encode()
                row, replaced = parse_json(line)
                if replaced:
                    self.values["NaN or Infinity, stored as null"] += replaced
            except json.JSONDecodeError as error:
                reason = f"is not valid JSON: {error.msg} at column {error.colno}"
                yield SourceError(self.name, reason, number)
                continue
            except UnicodeDecodeError as error:
                reason = f"is not valid {self.options.encoding.upper()}: {error.reason}"
                yield SourceError(self.name, reason, number)
                continue
            if isinstance(row, dict):
                yield Row(number, row)
            else:
                found = type(row).__name__
                yield SourceError(self.name, f"is not a JSON object but {found}", number)

    def _lines(self, file: io.BufferedReader) -> Iterator[Row | SourceError]:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            try:
                text = line.decode(self.options.encoding)
            except UnicodeDecodeError as error:
                encoding = self.options.encoding.upper()
                reason = f"is not valid {encoding}: {error.reason} at byte {error.start}"
                yield SourceError(self.name, reason, number)
            else:
                yield Row(number, {"text": text.rstrip("\r\n")})

    def _csv(self, file: io.BufferedReader) -> Iterator[Row | SourceError]:
        # Bytes that cannot be decoded become surrogates, so that only their row is lost.
        encoding = "utf-8-sig" if self.options.encoding == "utf-8" else self.options.encoding
        text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
        lines = iter(text)
        first = list(islice(lines, _SNIFFED_LINES))
        delimiter = self.options.delimiter
        if delimiter is None:
            delimiter = "\t" if suffix_of(self.path) == ".tsv" else sniffed_delimiter(first)
        rows = csv_rows(chain(first, lines), delimiter)
        header = next(rows, None)
        if header is None:
            return
        if isinstance(header, csv.Error):
            raise SourceError(self.name, f"its header is not valid CSV: {header}")
        undecodable = undecodable_field({name: name for name in header}, self.options.encoding)
        if undecodable is not None:
            raise SourceError(self.name, f"its header is not readable: {undecodable}")
        strings = self.check(header)
        sample = list(islice(rows, _SAMPLE)) if self.options.infer_types else []
        given = {name: kind for name, kind in self.options.types.items() if name in header}
        types = {**_inferred(header, sample, strings), **given}
        number = 0
        for values in chain(sample, rows):
            if values:
                number += 1
                yield self._csv_row(values, header, types, number)

    def _csv_row(
        self, values: list[str] | csv.Error, header: list[str], types: dict[str, str], number: int
    ) -> Row | SourceError:
        if isinstance(values, csv.Error):
            return SourceError(self.name, f"is not valid CSV: {values}", number)
        if len(values) != len(header):
            reason = f"has {len(values)} values for {len(header)} columns"
            return SourceError(self.name, reason, number)
        row: dict[str, Any] = dict(zip(header, values, strict=True))
        name = ""
        try:
            for name, kind in types.items():
                row[name] = convert(row[name], kind)
        except ValueError as error:
            hint = f"`{name}` {error} (`--types {name}=str` keeps it as text)"
            return SourceError(self.name, hint, number)
        undecodable = undecodable_field(row, self.options.encoding)
        if undecodable is not None:
            return SourceError(self.name, undecodable, number)
        return Row(number, row)

    def _parquet(self, file: io.BufferedReader | None = None) -> Iterator[Row | SourceError]:
        try:
            from quernstone.tables.parquet import parquet_rows  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError("pyarrow", "parquet") from error
        rows = parquet_rows(file or self.path, self.name, self.check, self.values)
        for number, row in enumerate(rows, start=1):
            if isinstance(row, ValueError):
                yield SourceError(self.name, str(row), number)
            else:
                yield Row(number, row)


_READERS: Mapping[str, Callable[[TableReader, io.BufferedReader], Iterator[Row | SourceError]]] = {
    "jsonl": TableReader._jsonl,
    "lines": TableReader._lines,
    "csv": TableReader._csv,
    "parquet": TableReader._parquet,
}


def undecodable_field(row: Mapping[str, Any], encoding: str) -> str | None:
    """Return the reason if a value has bytes that are not in the encoding of its file."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                byte = ord(value[error.start]) & 0xFF
                shown = name.encode(errors="replace").decode()
                return (
                    f"`{shown}` is not valid {encoding.upper()} (byte 0x{byte:02X} after "
                    f"{error.start} characters): convert the file, or pass its encoding, such as "
                    "--encoding cp1252"
                )
    return None


def _inferred(
    header: list[str], sample: list[list[str] | csv.Error], strings: Collection[str]
) -> dict[str, str]:
    """Return the type of each column whose values in the sample all have it."""
    rows = [row for row in sample if not isinstance(row, csv.Error) and len(row) == len(header)]
    types = {}
    for place, name in enumerate(header):
        values = [row[place] for row in rows if row[place]]
        if not values or name in strings:
            continue
        types[name] = next(kind for kind in CONVERTERS if _all_are(values, kind))
    return types


def _all_are(values: list[str], kind: str) -> bool:
    # `007` is an identifier, not a number.
    if kind in ("int", "float") and any(_LEADING_ZERO.match(value) for value in values):
        return False
    try:
        for value in values:
            convert(value, kind)
    except ValueError:
        return False
    return True

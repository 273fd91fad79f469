"""Input of `embed` and `rerank`: tables or plain lines, from a file or a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from quernstone.errors import ConfigError, InputError, SourceError
from quernstone.tables import Format, Row, TableOptions, TableReader, TextColumns, listed

FORMATS = ("auto", *get_args(Format))


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row of the input."""

    source: str
    number: int
    fields: dict[str, Any]
    text: str

    def error(self, error: InputError) -> SourceError:
        """Convert a model's error about one input to an error about this row."""
        reason = str(error).removeprefix(f"input {error.index}").lstrip(": ")
        return SourceError(self.source, reason, self.number)


class RowInput:
    """Reader of rows from a file or standard input, which stops at the first invalid row.

    Args:
        path: `-` is standard input.
        layout: `jsonl`, `csv`, `parquet`, `lines` (each line is a text), or `auto`: by the file
            extension, or for standard input by its first bytes.
        options: Options for reading, and for the fields that form the text.
        id_field: A field that every row must have.

    Raises:
        ConfigError: The format is unknown, or the file does not exist.
    """

    def __init__(
        self,
        path: Path,
        layout: str = "auto",
        options: TableOptions | None = None,
        id_field: str | None = None,
    ) -> None:
        if layout not in FORMATS:
            raise ConfigError(f"unknown input format {layout!r}; use {', '.join(FORMATS)}")
        if str(path) != "-" and (path.is_dir() or not path.exists()):
            raise ConfigError(f"INPUT {path}: no such file")
        self.name = "standard input" if str(path) == "-" else str(path)
        self._options, self._id_field = options or TableOptions(), id_field
        self._reader = TableReader(
            path=path,
            name=self.name,
            options=self._options,
            layout=next((one for one in get_args(Format) if one == layout), None),
        )

    def rows(self) -> Iterator[Row]:
        """Yield the rows. A plain line becomes `{"text": line}`.

        Raises:
            SourceError: The file is damaged, or a row is invalid.
        """
        for row in self._reader.rows():
            if isinstance(row, SourceError):
                raise row
            yield row

    def texts(self) -> Iterator[TextRow]:
        """Yield the rows with their texts.

        Raises:
            SourceError: As in `rows`, or a row lacks a text or the id field.
        """
        texts = TextColumns(self._options)
        for number, fields in self.rows():
            if self._id_field is not None and self._id_field not in fields:
                reason = f"no field `{self._id_field}`; the fields are {listed(fields)}"
                raise SourceError(self.name, reason, number)
            try:
                text = texts.text(fields)
            except ValueError as error:
                raise SourceError(self.name, str(error), number) from error
            yield TextRow(self.name, number, fields, text)

    def text(self, number: int, document: Mapping[str, Any]) -> str:
        """Return the text of a document in a row.

        Raises:
            SourceError: The document has no text, or the text is not a string.
        """
        try:
            return TextColumns(self._options).text(document)
        except ValueError as error:
            raise SourceError(self.name, str(error), number) from error

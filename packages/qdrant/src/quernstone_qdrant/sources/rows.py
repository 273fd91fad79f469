"""Convert rows of JSONL, CSV and Parquet files to records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quernstone.types import TEXT_FIELDS
from quernstone_qdrant.documents.json_values import UnstorableError, storable, to_metadata
from quernstone_qdrant.documents.records import Record, metadata_fields
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.options import ReadOptions

_COMPARED_ROWS = 64
"""Number of rows of a file for which a load by ids looks for rows that are stored by number."""


@dataclass(slots=True)
class RowReader:
    """A converter of the rows of one file to records."""

    source: str
    """Key of the file, with which the keys of its rows begin."""
    path: str
    """Path of the file, for error messages."""
    options: ReadOptions = field(default_factory=ReadOptions)
    label: str = ""
    """`Record.source` of every row."""
    values: Counter[str] = field(default_factory=Counter)
    """Counts values that are stored in another form; see `FileCounts.values`."""
    _chosen: str | None = field(default=None, init=False)

    @property
    def text_column(self) -> str | None:
        """Column of the text, once it is chosen."""
        return self._chosen

    def check_columns(self, columns: Iterable[str]) -> None:
        """Choose the text column of a file with a header or schema.

        Raises:
            SourceError: The text column or the id column is missing.
        """
        columns = list(columns)
        repeated = [name for name, count in Counter(columns).items() if count > 1]
        if repeated:
            raise SourceError(
                self.path,
                f"has more than one column {_listed(repeated)}, and only one of each name can be "
                "stored: rename the others",
            )
        unknown = [name for name in self.options.types if name not in columns]
        if unknown:
            raise SourceError(
                self.path,
                f"no column {_listed(unknown)} for `types`; the columns are {_listed(columns)}",
            )
        self._chosen = self._choose(columns)
        id_field = self.options.id_field
        if id_field is not None and id_field not in columns:
            raise SourceError(
                self.path,
                f"no column `{id_field}` for the ids; the columns are {_listed(columns)}",
            )

    def record(self, row: Mapping[str, Any], number: int) -> Record | SourceError:
        """Convert one row to a record, or return the error.

        Args:
            row: Values by column.
            number: Number of the row in the file, from 1.
        """
        id_field = self.options.id_field
        try:
            name = self._chosen or self._choose(row)
        except SourceError as error:
            return SourceError(self.path, error.reason, number)
        self._chosen = name
        if name not in row:
            return SourceError(
                self.path, f"no field `{name}`; the fields are {_listed(row)}", number
            )
        text = row[name]
        if not isinstance(text, str):
            found = "null" if text is None else type(text).__name__
            return SourceError(self.path, f"`{name}` is {found}, not a string", number)
        key, alias = f"{self.source}#{number}", ""
        if id_field is not None:
            value = row.get(id_field)
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                return SourceError(
                    self.path,
                    f"the id in `{id_field}` is {value!r}; it must be a non-empty string or "
                    "an integer",
                    number,
                )
            if number <= _COMPARED_ROWS:
                alias = self.options.named(key)
            key = str(value)
        undecodable = undecodable_field(row, self.options.encoding)
        if undecodable is not None:
            return SourceError(self.path, undecodable, number)
        try:
            metadata = to_metadata(metadata_fields(row, without=(name, id_field)))
        except UnstorableError as error:
            return SourceError(self.path, str(error), number)
        metadata.setdefault("source", self.source)
        metadata.setdefault("row", number)
        return Record(
            self.options.named(key),
            text,
            metadata,
            source=self.options.named(self.label),
            alias=alias,
        )

    def _choose(self, columns: Iterable[str]) -> str:
        columns = list(columns)
        text_field = self.options.text_field
        if text_field is not None:
            if text_field in columns:
                return text_field
            raise SourceError(
                self.path,
                f"no column `{text_field}` for the text; the columns are {_listed(columns)}",
            )
        for name in TEXT_FIELDS:
            if name in columns:
                return name
        raise SourceError(
            self.path,
            f"no text column ({_listed(TEXT_FIELDS)}); the columns are {_listed(columns)}: "
            "choose one with `text_field` (`--text-field`)",
        )


def undecodable_field(row: Mapping[str, Any], encoding: str) -> str | None:
    """Return the reason if a value has bytes that are not in the encoding of its file."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                byte = ord(value[error.start]) & 0xFF
                return (
                    f"`{storable(name)}` is not valid {encoding.upper()} (byte 0x{byte:02X} after "
                    f"{error.start} characters): convert the file, or pass its encoding, such as "
                    "--encoding cp1252"
                )
    return None


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"

"""What JSONL, CSV and Parquet have in common: rows with a text column and perhaps an id column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quernstone_qdrant.documents.json_values import to_json
from quernstone_qdrant.documents.records import TEXT_FIELDS, Record, metadata_fields
from quernstone_qdrant.errors import SourceError


@dataclass(slots=True)
class RowReader:
    """Turns the rows of one file into records."""

    source: str
    """Path of the file relative to its root: the start of every key."""
    path: str
    """Path of the file, for error messages."""
    text_field: str | None = None
    """None: the first of `TEXT_FIELDS` that the file has."""
    id_field: str | None = None
    """None: keys are made of the path and the row's number."""
    label: str = ""
    """`Record.source` of every row."""
    _chosen: str | None = field(default=None, init=False)

    def check_columns(self, columns: Iterable[str]) -> None:
        """Choose the text column of a file whose columns are known.

        Raises:
            SourceError: The text or the id column is not there.
        """
        columns = list(columns)
        self._chosen = self._choose(columns)
        if self.id_field is not None and self.id_field not in columns:
            raise SourceError(
                self.path, f"no column `{self.id_field}` for the ids; it has {_listed(columns)}"
            )

    def record(self, row: Mapping[str, Any], number: int) -> Record | SourceError:
        """Make a record of one row, or say what is wrong with it.

        Args:
            row: Values by column.
            number: Of the row in the file, from 1.
        """
        try:
            name = self._chosen or self._choose(row)
        except SourceError as error:
            return SourceError(self.path, error.reason, number)
        self._chosen = name
        if name not in row:
            return SourceError(self.path, f"no field `{name}`; it has {_listed(row)}", number)
        text = row[name]
        if not isinstance(text, str):
            what = "null" if text is None else type(text).__name__
            return SourceError(self.path, f"`{name}` is {what}, not a string", number)
        key = f"{self.source}#{number}"
        if self.id_field is not None:
            value = row.get(self.id_field)
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                return SourceError(
                    self.path, f"`{self.id_field}` is {value!r}, not a string or number", number
                )
            key = str(value)
        fields = metadata_fields(row, without=(name, self.id_field))
        metadata = {column: to_json(value) for column, value in fields.items()}
        metadata.setdefault("source", self.source)
        metadata.setdefault("row", number)
        return Record(key, text, metadata, source=self.label)

    def _choose(self, columns: Iterable[str]) -> str:
        columns = list(columns)
        if self.text_field is not None:
            if self.text_field in columns:
                return self.text_field
            raise SourceError(
                self.path, f"no column `{self.text_field}` for the text; it has {_listed(columns)}"
            )
        for name in TEXT_FIELDS:
            if name in columns:
                return name
        raise SourceError(
            self.path,
            f"no text column: none of {_listed(TEXT_FIELDS)} is among {_listed(columns)}; "
            "name it with `text_field` (`--text-field`)",
        )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no columns"

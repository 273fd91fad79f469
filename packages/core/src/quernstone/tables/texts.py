"""Choose the columns of a table that are the text, and build the text of each row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from quernstone.tables.options import PLACEHOLDER, TableOptions, listed
from quernstone.types import TEXT_FIELDS


class TextColumns:
    """The text columns of one table. They are chosen once, so that every row has the same ones."""

    def __init__(self, options: TableOptions) -> None:
        self._template = options.text_template
        self._requested = options.text_columns
        self.names: tuple[str, ...] = ()
        """The columns, once they are chosen."""

    @property
    def is_joined(self) -> bool:
        """True if the text has more parts than one column."""
        return self._template is not None or len(self._requested) > 1

    def choose(self, columns: Collection[str], *, complete: bool) -> None:
        """Choose the columns of the text.

        Args:
            columns: The columns of the table, or the fields of its first row.
            complete: False if other rows may have further columns.

        Raises:
            ValueError: A column is missing. The message follows the name of the file.
        """
        if not self._requested:
            name = next((name for name in TEXT_FIELDS if name in columns), None)
            if name is None:
                raise ValueError(
                    f"no text column ({listed(TEXT_FIELDS)}); the columns are {listed(columns)}: "
                    "choose one with `text_field` (`--text-field`)"
                )
            self.names = (name,)
            return
        missing = [name for name in self._requested if name not in columns]
        if missing and (complete or len(missing) == len(self._requested)):
            raise ValueError(
                f"no column {listed(missing)} for the text; the columns are {listed(columns)}"
            )
        self.names = self._requested

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a row, after choosing the columns by the first one.

        Raises:
            ValueError: The row has no text. The message follows the name and row of the file.
        """
        if not self.names:
            self.choose(row.keys(), complete=False)
        if self.is_joined:
            return self._joined(row)
        (name,) = self.names
        if name not in row:
            raise ValueError(f"no field `{name}`; the fields are {listed(row)}")
        value = row[name]
        if not isinstance(value, str):
            found = "null" if value is None else type(value).__name__
            raise ValueError(f"`{name}` is {found}, not a string")
        return value

    def _joined(self, row: Mapping[str, Any]) -> str:
        parts = {name: _part(name, row.get(name)) for name in self.names}
        if not any(parts.values()):
            raise ValueError(f"{listed(parts)} are all empty")
        if self._template is None:
            return "\n".join(f"{name}: {part}" for name, part in parts.items() if part)
        return PLACEHOLDER.sub(
            lambda found: parts[found[1]] if found[1] else found[0][0], self._template
        )


def _part(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        raise ValueError(
            f"`{name}` is {type(value).__name__}; a joined text takes strings and numbers"
        )
    return value.strip() if isinstance(value, str) else str(value)

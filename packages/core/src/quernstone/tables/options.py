"""The options for reading tables."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quernstone.errors import ConfigError
from quernstone.tables.types import check_types

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""A field in braces in a template, or a brace written twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How rows are read, and which of their fields are the text.

    Raises:
        ConfigError: A value is not valid, or two of them exclude each other.
    """

    text_field: str | Sequence[str] | None = None
    """Column of the text; None: the first of `TEXT_FIELDS` that a file has. Several columns are
    joined, each on a line after its name; those that are empty are left out."""
    text_template: str | None = None
    """Text with columns in braces, such as `{title}, {year}`, in place of `text_field`. Braces
    that are text are written twice."""
    encoding: str = "utf-8"
    """Encoding of text, Markdown, CSV and JSON Lines files, by Python's name."""
    delimiter: str | None = None
    """Delimiter of CSV files; None: a tab in `.tsv` files, else a comma, semicolon, tab or bar, by
    the first lines."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Types of CSV columns: int, float, bool, date, datetime or str. Other columns are strings."""
    infer_types: bool = False
    """Choose the types of the other CSV columns by their first 1,000 values."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of the text that are requested."""
        if self.text_template is not None:
            found = PLACEHOLDER.findall(self.text_template)
            return tuple(dict.fromkeys(name for name in found if name))
        names = self.text_field or ()
        return (names,) if isinstance(names, str) else tuple(names)

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ConfigError(
                f"`encoding` is {self.encoding!r}, which Python does not know"
            ) from error
        check_types(self.types)
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ConfigError(f"`delimiter` is {self.delimiter!r}; it must be one character")
        if self.text_template is not None:
            if self.text_field is not None:
                raise ConfigError("`text_field` and `text_template` exclude each other")
            if not self.text_columns:
                raise ConfigError(
                    f"`text_template` is {self.text_template!r}; it must name columns in braces, "
                    "such as {title}"
                )


def listed(names: Iterable[object]) -> str:
    """Return names as a list for messages."""
    return ", ".join(f"`{name}`" for name in names) or "none"

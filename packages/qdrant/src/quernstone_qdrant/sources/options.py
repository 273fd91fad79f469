"""The options for reading files."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from quernstone.errors import ConfigError
from quernstone_qdrant.sources.types import check_types
from quernstone_qdrant.sources.walk import EXCLUDED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How files and folders become records."""

    text_field: str | None = None
    """Column of the text; None: the first of `TEXT_FIELDS` that a file has."""
    id_field: str | None = None
    """Column of the ids, which must be unique across all files; None: file and row number."""
    encoding: str = "utf-8"
    """Encoding of text, Markdown, CSV and JSON Lines files, by Python's name."""
    delimiter: str | None = None
    """Delimiter of CSV files; None: a tab in `.tsv` files, else a comma, or what the header has in
    its place."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Types of CSV columns: int, float, bool, date, datetime or str. Other columns are strings."""
    infer_types: bool = False
    """Choose the types of the other CSV columns by their first 1,000 values."""
    namespace: str = ""
    """Name that all keys and sources begin with, before a colon, so that equal ids of different
    sources stay apart."""
    exclude: Collection[str] = EXCLUDED
    """Patterns of files and folders to skip, such as `drafts/`, `*.log` or `2019/*.csv`. A pattern
    without an inner slash matches names on every level, one with a trailing slash only folders."""

    def named(self, name: str) -> str:
        """Return a key or source within the namespace."""
        return f"{self.namespace}:{name}" if self.namespace else name

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

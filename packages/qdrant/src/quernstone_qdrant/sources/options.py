"""The options for reading files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from quernstone.errors import ConfigError
from quernstone.tables import Format, TableOptions
from quernstone_qdrant.sources.walk import EXCLUDED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions(TableOptions):
    """How files and folders become records."""

    id_field: str | None = None
    """Column of the ids, which must be unique across all files; None: file and row number, or for
    standard input a hash of the row. It also stays in the metadata."""
    input_format: Format | None = None
    """Format of standard input; None: JSON Lines or Parquet, by its first bytes."""
    metadata: Collection[str] | None = None
    """Columns that are metadata, besides the id and the partitions of a row; None: all except
    those of the text."""
    drop: Collection[str] = ()
    """Columns that are not metadata."""
    limit: int | None = None
    """Maximum number of records to read; None: all."""
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
        TableOptions.__post_init__(self)  # a class with slots has no `super()` here
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"`limit` is {self.limit}; it must be at least 1")
        both = sorted({*(self.metadata or ())} & {*self.drop})
        if both:
            raise ConfigError(f"`metadata` and `drop` both name {', '.join(both)}")

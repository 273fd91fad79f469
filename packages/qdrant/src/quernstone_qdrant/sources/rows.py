"""Convert rows of JSONL, CSV and Parquet files to records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quernstone.tables import Row, TableReader, TextColumns, listed
from quernstone.tables.files import is_standard_input
from quernstone_qdrant.documents.deadletter import MARK, read_dead_letter
from quernstone_qdrant.documents.json_values import UnstorableError, to_metadata
from quernstone_qdrant.documents.records import Record, content_key, metadata_fields
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.options import ReadOptions
from quernstone_qdrant.sources.partitions import partitions_of

_COMPARED_ROWS = 64
"""Number of rows per file that a load by ids also looks up by row number, to detect an earlier load
without ids."""
STANDARD_INPUT = "standard input"
"""Name and source of standard input."""


@dataclass(slots=True)
class RowReader:
    """A reader of the rows of one file as records."""

    source: str
    """Key of the file, with which the keys of its rows begin."""
    path: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    label: str = ""
    """`Record.source` of every row."""
    values: Counter[str] = field(default_factory=Counter)
    """Counts values that are stored in another form; see `FileCounts.values`."""
    _texts: TextColumns = field(init=False)
    _partitions: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._texts = TextColumns(self.options)
        self._partitions = {}

    @property
    def _is_piped(self) -> bool:
        return is_standard_input(self.path)

    @property
    def _name(self) -> str:
        return STANDARD_INPUT if self._is_piped else str(self.path)

    def records(self) -> Iterator[Record | SourceError]:
        """Yield the records, and a `SourceError` in place of each invalid row.

        Lines of a dead-letter file yield the original records.

        Raises:
            SourceError: The file is damaged, or a column is missing.
            OSError: The file cannot be opened.
        """
        self._partitions = partitions_of(self.source, self.options.types, self._name)
        reader = TableReader(
            path=self.path,
            name=self._name,
            options=self.options,
            layout=self.options.input_format if self._is_piped else None,
            guesses_lines=False,
            check=self._check_columns,
            values=self.values,
        )
        for item in reader.rows():
            if isinstance(item, SourceError):
                yield item
            elif MARK in item.fields:
                yield read_dead_letter(item.fields, self._name, item.number)
            else:
                yield self._record(item)

    def _check_columns(self, columns: list[str]) -> Collection[str]:
        """Choose the text columns of a file with a header or schema.

        Returns:
            The columns of text and id, which stay strings.

        Raises:
            SourceError: A column is missing.
        """
        path, options = self._name, self.options
        repeated = [name for name, count in Counter(columns).items() if count > 1]
        if repeated:
            raise SourceError(
                path,
                f"has more than one column {listed(repeated)}, and only one of each name can be "
                "stored: rename the others",
            )
        known = {*columns, *self._partitions}
        wanted: dict[str, Collection[str]] = {"`types` (`--types`)": options.types}
        if "metadata" not in columns:  # else its fields are columns as well
            wanted["`metadata` (`--metadata`)"] = options.metadata or ()
            wanted["`drop` (`--drop`)"] = options.drop
        for option, names in wanted.items():
            unknown = [name for name in names if name not in known]
            if unknown:
                raise SourceError(
                    path, f"no column {listed(unknown)} for {option}; the columns are "
                    f"{listed(columns)}"
                )  # fmt: skip
        try:
            self._texts.choose(columns, complete=True)
        except ValueError as error:
            raise SourceError(path, str(error)) from error
        if options.id_field is not None and options.id_field not in columns:
            raise SourceError(
                path, f"no column `{options.id_field}` for the ids; the columns are "
                f"{listed(columns)}"
            )  # fmt: skip
        return (*self._texts.names, *([options.id_field] if options.id_field else []))

    def _record(self, row: Row) -> Record | SourceError:
        """Convert one row to a record, or return the error."""
        number, fields, options = row.number, row.fields, self.options
        try:
            text = self._texts.text(fields)
            own_id = None if options.id_field is None else _id(fields, options.id_field)
            metadata = to_metadata(self._metadata(fields))
            metadata.setdefault("source", self.source)
            if self._is_piped:  # its rows have no place that they keep
                key = content_key(text, metadata)
            else:
                metadata.setdefault("row", number)
                key = f"{self.source}#{number}"
            alias = ""
            if own_id is not None:
                alias = options.named(key) if number <= _COMPARED_ROWS else ""
                key = own_id
        except (UnstorableError, ValueError) as error:
            return SourceError(self._name, str(error), number)
        return Record(
            options.named(key),
            text,
            metadata,
            source=options.named(self.label),
            alias=alias,
            added=self._added(fields),
        )

    def _metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row that are metadata."""
        options = self.options
        fields = metadata_fields(row, without=())
        for name in {*(options.metadata or ()), *options.drop}:
            if name not in fields and name not in self._partitions:
                self.values[f"rows without `{name}`, which --metadata or --drop names"] += 1
        if options.metadata is None:
            kept = {name: v for name, v in fields.items() if name not in self._texts.names}
        else:
            kept = {name: fields[name] for name in options.metadata if name in fields}
        if options.id_field is not None:
            kept.setdefault(options.id_field, row[options.id_field])
        kept = {**self._partitions, **kept}
        return {name: value for name, value in kept.items() if name not in options.drop}

    def _added(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the fields that are metadata only because of the id and the partitions."""
        options, nested = self.options, row.get("metadata")
        own = {*(options.metadata or ()), *(nested if isinstance(nested, Mapping) else ())}
        partitions = [name for name in self._partitions if name not in row]
        names = [*([options.id_field] if options.id_field else []), *partitions]
        return tuple(name for name in names if name not in own)


def _id(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(
            f"the id in `{name}` is {value!r}; it must be a non-empty string or an integer"
        )
    return str(value)

"""The options that decide how files become records, and the summary of a load's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from quernstone.cli.options import TextOptions, fields_of
from quernstone.cli.options import table_option as _option
from quernstone.errors import ConfigError
from quernstone.tables.files import is_standard_input

if TYPE_CHECKING:
    from quernstone_qdrant.sources import FileCounts, ReadOptions

InputFormat: TypeAlias = Literal["auto", "jsonl", "csv", "parquet", "lines"]
_SHOWN = 3


def existing(paths: list[Path]) -> list[Path]:
    """Return paths that exist, or are `-`, standard input.

    Raises:
        typer.BadParameter: One does not exist.
    """
    for path in paths:
        if not (path.exists() or is_standard_input(path)):
            raise typer.BadParameter(f"path {str(path)!r} does not exist")
    return paths


@dataclass(frozen=True)
class FileOptions(TextOptions):
    """How files become records; `load` and `collection prune` must get the same ones."""

    id_field: Annotated[
        str | None,
        _option(
            help="Field that holds a unique id. (default: as in the collection, or file path and "
            "row number)"
        ),
    ] = None
    input_format: Annotated[
        InputFormat,
        _option(help="Format of standard input; auto: JSON Lines or Parquet, by its first bytes."),
    ] = "auto"
    metadata: Annotated[
        str | None,
        _option(
            metavar="COLUMN,...",
            help="Columns that are metadata. (default: all except those of the text)",
        ),
    ] = None
    drop: Annotated[
        str | None, _option(metavar="COLUMN,...", help="Columns that are not metadata.")
    ] = None
    limit: Annotated[
        int | None, _option(min=1, help="Maximum number of records to read. (default: all)")
    ] = None
    types: Annotated[
        str | None,
        _option(
            metavar="COLUMN=TYPE,...",
            help="Types of CSV columns and Hive partitions: int, float, bool, date, datetime or "
            "str. (default: str)",
        ),
    ] = None
    infer_types: Annotated[
        bool,
        _option("--infer-types", help="Choose types of CSV columns by their first 1,000 values."),
    ] = False
    namespace: Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="Put NAME: before every id and source, so that equal ids of different files stay "
            "apart.",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        _option(
            metavar="PATTERN",
            help="Skip files and folders in a folder, such as `drafts/`, `*.log` or `2019/*.csv`. "
            "May be repeated.",
        ),
    ] = None
    default_excludes: Annotated[
        bool,
        _option(
            "--default-excludes/--no-default-excludes",
            help="Skip node_modules, .venv, venv, __pycache__, build and dist.",
        ),
    ] = True

    def reading(self) -> ReadOptions:
        """Return the options for `read_paths`."""
        from quernstone_qdrant.sources import EXCLUDED, ReadOptions

        return ReadOptions(
            **self.arguments(),
            id_field=self.id_field,
            input_format=None if self.input_format == "auto" else self.input_format,
            metadata=fields_of(self.metadata),
            drop=fields_of(self.drop) or (),
            limit=self.limit,
            types=_types(self.types or ""),
            infer_types=self.infer_types,
            namespace=self.namespace or "",
            exclude=(*(EXCLUDED if self.default_excludes else ()), *(self.exclude or ())),
        )


def _types(text: str) -> dict[str, str]:
    types = {}
    for part in text.split(",") if text else ():
        column, equals, kind = part.rpartition("=")
        if not (column and equals):
            raise ConfigError(f"--types {text!r} is not of the form COLUMN=TYPE,COLUMN=TYPE")
        types[column] = kind
    return types


def describe_files(files: FileCounts) -> str:
    """Describe in one line how many files were loaded, skipped or failed."""
    parts = [f"{files.loaded:,} of {files.found:,} files loaded"]
    if files.skipped:
        parts.append(f"skipped: {describe_skipped(files)}")
    if files.failed:
        parts.append(f"failed: {files.failed:,}")
    return "; ".join(parts)


def describe_skipped(files: FileCounts) -> str:
    """List the reasons for which files were skipped, with the number of files."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(files.skipped.items()))


def describe_unfollowed(files: FileCounts) -> str:
    """Explain why nothing is pruned although the load succeeded."""
    shown = ", ".join(repr(link) for link in files.unfollowed[:_SHOWN])
    more = len(files.unfollowed) - _SHOWN
    return (
        f"{shown}{f' and {more} more' if more > 0 else ''} may be folders, but the links are "
        "broken or lead in a circle: remove them, or pass --exclude with their names"
    )

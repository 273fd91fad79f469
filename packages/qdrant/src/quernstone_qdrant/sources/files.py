"""Read files and folders, each file according to its suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from quernstone_qdrant.documents.records import Record, TextFormat
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.options import ReadOptions
from quernstone_qdrant.sources.rows import RowReader
from quernstone_qdrant.sources.tables import (
    count_lines,
    count_parquet,
    read_csv,
    read_jsonl,
    read_parquet,
)
from quernstone_qdrant.sources.walk import FileCounts, Found, Inventory, Walker

_TEXTS: dict[str, TextFormat] = {
    ".txt": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
}
_TABLES = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
_COUNTED_BYTES = 1 << 30
SUFFIXES = (*_TEXTS, *_TABLES)
"""Suffixes of the files that can be read. Other files in a folder are skipped."""


class FileRecords(Iterator[Record | SourceError]):
    """The records of files, read as they are requested, and an account of the files."""

    def __init__(self, items: Iterator[Record | SourceError], inventory: Inventory) -> None:
        self._items, self._inventory = items, inventory

    @property
    def files(self) -> FileCounts:
        """The files read so far, and those skipped."""
        return self._inventory.counts()

    def __next__(self) -> Record | SourceError:
        return next(self._items)


def read_paths(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    text_field: str | None = None,
    id_field: str | None = None,
    options: ReadOptions | None = None,
) -> FileRecords:
    """Read files and folders, including subfolders, in a fixed order.

    A text or Markdown file is one record. Its key is its path relative to the folder in `paths`;
    for a file in `paths`, it is the path as given (the last part of an absolute one). A row of a
    JSONL, CSV or Parquet file is one record; its key is the value of `id_field`, or else the file's
    key and the row's number. The `source` of a record is the name of the folder in `paths`, or the
    key of the file in `paths`. In folders, these are skipped and counted: files of other types,
    empty files, pipes, names that begin with a dot, and what `options.exclude` matches. Links to
    folders are followed, except those that lead to a folder they are in.

    Args:
        paths: One path or several.
        text_field: `text_field` of the options.
        id_field: `id_field` of the options.
        options: How to read; None: `ReadOptions()`.

    Returns:
        An iterator of records, with a `SourceError` in place of each row or file that cannot be
        read. Its attribute `files` accounts for every file.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    options = options or ReadOptions()
    if text_field is not None:
        options = replace(options, text_field=text_field)
    if id_field is not None:
        options = replace(options, id_field=id_field)
    inventory = Inventory()
    return FileRecords(_read_all([Path(path) for path in paths], options, inventory), inventory)


def count_records(
    paths: Iterable[str | os.PathLike[str]], options: ReadOptions | None = None
) -> int | None:
    """Estimate the number of records that `read_paths` will yield, without reading them.

    JSONL and CSV files are counted by lines, so quoted line breaks in CSV count too many. Returns
    None if a path is a pipe, or if these files together exceed a gigabyte.
    """
    total = lines = 0
    for root in map(Path, paths):
        for found in _walk(root, options or ReadOptions(), Inventory()):
            if isinstance(found, SourceError):
                continue
            path = found.path
            if path.exists() and not path.is_file():
                return None
            suffix = path.suffix.lower()
            try:
                if suffix in _TEXTS:
                    total += path.stat().st_size > 0
                elif suffix == ".parquet":
                    total += count_parquet(path)
                elif suffix in _TABLES:
                    lines += path.stat().st_size
                    if lines > _COUNTED_BYTES:
                        return None
                    total += count_lines(path)
            except OSError:
                continue  # the load reports unreadable files
    return total


def check_first_rows(
    paths: Iterable[str | os.PathLike[str]], options: ReadOptions, *, skip_errors: bool
) -> None:
    """Read the first row of each file in `paths`, and of the first file per format in a folder.

    Pipes are not opened: what is read from them is gone. With `skip_errors` nothing is read.

    Raises:
        SourceError: A file cannot be opened, or its first row is not a record.
    """
    for root in () if skip_errors else map(Path, paths):
        checked: set[str] = set()
        for found in _walk(root, options, Inventory()):
            if isinstance(found, SourceError):
                raise found
            path, suffix = found.path, found.path.suffix.lower()
            if suffix in checked or (path.exists() and not path.is_file()):
                continue
            first = next(_read(path, found.key, "", options, Inventory()), None)
            if isinstance(first, SourceError):
                raise first
            if first is not None:
                checked.add(suffix)


def _read_all(
    roots: list[Path], options: ReadOptions, inventory: Inventory
) -> Iterator[Record | SourceError]:
    origin: dict[str, Path] = {}
    for root in roots:
        for found in _walk(root, options, inventory):
            if isinstance(found, SourceError):
                yield found
                continue
            source, path = found
            if len(roots) > 1 and origin.setdefault(source, path) != path:
                inventory.failed += 1
                yield SourceError(
                    str(path),
                    f"has the same key, `{source}`, as {origin[source]}; "
                    "load their common parent folder, or load them into separate collections",
                )
                continue
            label = root.resolve().name if root.is_dir() else source
            yield from _counted(_read(path, source, label, options, inventory), inventory)


def _walk(root: Path, options: ReadOptions, inventory: Inventory) -> Iterator[Found | SourceError]:
    if root.is_dir():
        yield from Walker(SUFFIXES, options.exclude).walk(root, inventory)
    else:
        inventory.found += 1
        yield Found(root.name if root.is_absolute() else root.as_posix(), root)


def _counted(
    items: Iterator[Record | SourceError], inventory: Inventory
) -> Iterator[Record | SourceError]:
    """Yield what was read from one file, and count the file as loaded, failed or empty."""
    is_read = is_empty = True
    records = 0
    for item in items:
        is_empty = False
        if not isinstance(item, SourceError):
            records += 1
        elif item.row is None:
            is_read = False
        yield item
    if is_empty:
        inventory.skip("empty", found=False)
    elif is_read and records:
        inventory.loaded += 1
    else:
        inventory.failed += 1


def _read(
    path: Path, source: str, label: str, options: ReadOptions, inventory: Inventory
) -> Iterator[Record | SourceError]:
    suffix = path.suffix.lower()
    try:
        if suffix in _TEXTS:
            text = path.read_bytes().decode(options.encoding).removeprefix("\ufeff")
            if text.strip():
                key, origin = options.named(source), options.named(label)
                yield Record(key, text, {"source": source}, _TEXTS[suffix], origin)
        elif suffix in _TABLES:
            reader = RowReader(source, str(path), options, label, inventory.values)
            yield from _TABLES[suffix](path, reader)
        else:
            known = ", ".join(SUFFIXES)
            yield SourceError(str(path), f"unknown file type {suffix!r}; supported are {known}")
    except SourceError as error:
        yield error
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        yield SourceError(
            str(path),
            f"is not valid {options.encoding.upper()} ({place}): convert the file, or "
            "pass its encoding, such as --encoding cp1252",
        )
    except OSError as error:
        yield SourceError(str(path), f"cannot be opened: {error.strerror or error}")

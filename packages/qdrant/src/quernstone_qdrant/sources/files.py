"""Read files and folders, each file according to its suffix."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from quernstone.errors import ConfigError, MissingExtraError
from quernstone.tables import FORMATS, open_file, suffix_of
from quernstone.tables.files import COMPRESSED, count_lines, is_pipe, is_standard_input
from quernstone.tables.parquet import count_parquet
from quernstone.tables.rows import UTF_16
from quernstone_qdrant.documents.records import Record, TextFormat
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.documents import (
    DOCUMENT_SUFFIXES,
    can_read_documents,
    read_document,
)
from quernstone_qdrant.sources.options import ReadOptions
from quernstone_qdrant.sources.rows import STANDARD_INPUT, RowReader
from quernstone_qdrant.sources.walk import FileCounts, Found, Inventory, Walker

_TEXTS: dict[str, TextFormat] = {
    ".txt": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
}
_COUNTED_BYTES = 1 << 30
_DECOMPRESSED = 8
"""Assumed ratio of a compressed file's content to its size."""
SUFFIXES = (*_TEXTS, *FORMATS, *DOCUMENT_SUFFIXES)
"""Suffixes of the files that can be read, also before `.gz` and `.zst`. Other files in a folder are
skipped."""


class FileRecords(Iterator[Record | SourceError]):
    """The records of files, read as they are requested, and an account of the files."""

    def __init__(
        self,
        items: Iterator[Record | SourceError],
        inventory: Inventory,
        *,
        incomplete: str = "",
    ) -> None:
        self._items, self._inventory = items, inventory
        self.incomplete = incomplete
        """The reason why there may be more records, so that nothing may be pruned by these."""

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

    The path `-` is standard input, a table in the format of `options.input_format`. The source of
    its rows is `standard input`; without `id_field`, their keys are hashes of their content.

    Args:
        paths: One path or several.
        text_field: `text_field` of the options.
        id_field: `id_field` of the options.
        options: How to read; None: `ReadOptions()`.

    Returns:
        An iterator of records, with a `SourceError` in place of each row or file that cannot be
        read. Its attribute `files` accounts for every file.

    Raises:
        ConfigError: `-` is given twice, or `options.input_format` without it.
    """
    roots = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    options = options or ReadOptions()
    if text_field is not None:
        options = replace(options, text_field=text_field)
    if id_field is not None:
        options = replace(options, id_field=id_field)
    _check_standard_input(roots, options)
    inventory = Inventory()
    items = _read_all(roots, options, inventory)
    return FileRecords(items, inventory, incomplete=_incomplete(roots, options))


def _check_standard_input(paths: Iterable[Path], options: ReadOptions) -> None:
    piped = sum(map(is_standard_input, paths))
    if piped > 1:
        raise ConfigError("standard input can be read only once: pass - once")
    if options.input_format is not None and not piped:
        raise ConfigError(
            "`input_format` (`--input-format`) belongs to standard input: pass - as the path"
        )


def _incomplete(paths: Iterable[Path], options: ReadOptions) -> str:
    if options.limit is not None:
        return "`limit` (`--limit`) leaves documents out"
    if any(is_pipe(path) for path in paths if is_standard_input(path) or not path.is_dir()):
        return "a pipe ends early, without an error, if the program that writes to it fails"
    return ""


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
            if is_pipe(path):
                return None
            try:
                if suffix_of(path) in _TEXTS or path.suffix.lower() in DOCUMENT_SUFFIXES:
                    total += path.stat().st_size > 0
                elif path.suffix.lower() == ".parquet":
                    total += count_parquet(path)
                elif suffix_of(path) in FORMATS:
                    is_plain = path.suffix.lower() not in COMPRESSED
                    lines += path.stat().st_size * (1 if is_plain else _DECOMPRESSED)
                    if lines > _COUNTED_BYTES:
                        return None
                    total += count_lines(path)
            except OSError:
                continue  # the load reports unreadable files
    limit = (options or ReadOptions()).limit
    return total if limit is None else min(total, limit)


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
            if suffix in checked or is_pipe(path):
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
            label = source
            if root.is_dir() and not is_standard_input(root):
                label = root.resolve().name
            items = _read(path, source, label, options, inventory)
            left = None if options.limit is None else options.limit - inventory.records
            empty = "without text" if path.suffix.lower() in DOCUMENT_SUFFIXES else "empty"
            yield from _counted(items, inventory, left, empty)
            if inventory.records == options.limit:
                return


def _walk(root: Path, options: ReadOptions, inventory: Inventory) -> Iterator[Found | SourceError]:
    if is_standard_input(root):
        inventory.found += 1
        yield Found(STANDARD_INPUT, root)
    elif root.is_dir():
        missing = () if can_read_documents() else DOCUMENT_SUFFIXES
        yield from Walker(SUFFIXES, options.exclude, missing).walk(root, inventory)
    else:
        inventory.found += 1
        yield Found(root.name if root.is_absolute() else root.as_posix(), root)


def _counted(
    items: Iterator[Record | SourceError], inventory: Inventory, limit: int | None, empty: str
) -> Iterator[Record | SourceError]:
    """Yield what was read from one file, and count the file as loaded, failed or empty."""
    is_read = is_empty = True
    records = 0
    for item in items:
        is_empty = False
        if not isinstance(item, SourceError):
            records += 1
            inventory.records += 1
        elif item.row is None:
            is_read = False
        yield item
        if records == limit:
            break
    if is_empty:
        inventory.skip(empty, found=False)
    elif is_read and records:
        inventory.loaded += 1
    else:
        inventory.failed += 1


def _read(
    path: Path, source: str, label: str, options: ReadOptions, inventory: Inventory
) -> Iterator[Record | SourceError]:
    suffix = suffix_of(path)
    try:
        if suffix in _TEXTS:
            with open_file(path) as file:
                text = file.read().decode(options.encoding).removeprefix("\ufeff")
            if text.strip():
                key, origin = options.named(source), options.named(label)
                yield Record(key, text, {"source": source}, _TEXTS[suffix], origin)
        elif path.suffix.lower() in DOCUMENT_SUFFIXES:
            record = read_document(path, source, label, options)
            if record is not None:
                yield record
        elif suffix in FORMATS or is_standard_input(path):
            yield from RowReader(source, path, options, label, inventory.values).records()
        else:
            known = ", ".join(SUFFIXES)
            yield SourceError(str(path), f"unknown file type {suffix!r}; supported are {known}")
    except SourceError as error:
        yield error
    except MissingExtraError as error:
        yield SourceError(str(path), f"cannot be read: {error}")
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        likely = "utf-16" if error.object.startswith(UTF_16) else "cp1252"
        yield SourceError(
            str(path),
            f"is not valid {options.encoding.upper()} ({place}): convert the file, or "
            f"pass its encoding, such as --encoding {likely}",
        )
    except (EOFError, zlib.error) as error:
        yield SourceError(str(path), f"is damaged: {error}")
    except OSError as error:
        yield SourceError(str(path), f"cannot be opened: {error.strerror or error}")

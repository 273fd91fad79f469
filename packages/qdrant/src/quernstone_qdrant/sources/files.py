"""Walk files and folders, and read each file according to its suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from quernstone_qdrant.documents.records import Record, TextFormat
from quernstone_qdrant.errors import SourceError
from quernstone_qdrant.sources.rows import RowReader
from quernstone_qdrant.sources.tables import (
    count_lines,
    count_parquet,
    read_csv,
    read_jsonl,
    read_parquet,
)

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
    ".parquet": read_parquet,
}
_COUNTED_BYTES = 1 << 30
SUFFIXES = (*_TEXTS, *_TABLES)
"""Suffixes of the files that can be read. Other files in a folder are skipped."""


def read_paths(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    text_field: str | None = None,
    id_field: str | None = None,
) -> Iterator[Record | SourceError]:
    """Read files and folders, including subfolders, in a fixed order.

    A text or Markdown file is one record. Its key is its path relative to the folder in `paths`;
    for a file in `paths`, it is the path as given (the last part of an absolute one). A row of a
    JSONL, CSV or Parquet file is one record; its key is the value of `id_field`, or else the file's
    key and the row's number. The `source` of a record is the name of the folder in `paths`, or the
    key of the file in `paths`. Files and folders whose names begin with a dot are skipped.

    Args:
        paths: One path or several.
        text_field: Column of the text; None: the first of `text`, `content`, `page_content`,
            `body` and `document` that a file has.
        id_field: Column of the ids, which must be unique across all files.

    Yields:
        Records, and a `SourceError` in place of each row or file that cannot be read.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    roots = [Path(path) for path in paths]
    origin: dict[str, Path] = {}
    for root in roots:
        for source, path in _walk(root):
            if isinstance(path, SourceError):
                yield path
                continue
            if len(roots) > 1 and origin.setdefault(source, path) != path:
                yield SourceError(
                    str(path),
                    f"has the same key, `{source}`, as {origin[source]}; "
                    "load their common parent folder, or load them into separate collections",
                )
                continue
            label = root.resolve().name if root.is_dir() else source
            yield from _read(path, source, label, text_field, id_field)


def count_records(paths: Iterable[str | os.PathLike[str]]) -> int | None:
    """Estimate the number of records that `read_paths` will yield, without reading them.

    JSONL and CSV files are counted by lines, so quoted line breaks in CSV count too many. Returns
    None if a path is a pipe, or if these files together exceed a gigabyte.
    """
    total = lines = 0
    for root in map(Path, paths):
        for _, path in _walk(root):
            if isinstance(path, SourceError):
                continue
            if path.exists() and not path.is_file():
                return None
            suffix = path.suffix.lower()
            if suffix in _TEXTS:
                total += 1
                continue
            try:
                if suffix == ".parquet":
                    total += count_parquet(path)
                elif suffix in _TABLES:
                    lines += path.stat().st_size
                    if lines > _COUNTED_BYTES:
                        return None
                    total += count_lines(path)
            except OSError:
                continue  # the load reports unreadable files
    return total


def _walk(root: Path) -> Iterator[tuple[str, Path | SourceError]]:
    """Yield (key, path) for each file to read."""
    if root.is_dir():
        yield from _walk_folder(root, root)
    else:
        yield root.name if root.is_absolute() else root.as_posix(), root


def _walk_folder(root: Path, folder: Path) -> Iterator[tuple[str, Path | SourceError]]:
    source = folder.relative_to(root).as_posix()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield source, SourceError(str(folder), f"cannot be opened: {error.strerror or error}")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folder(root, path)
        elif path.suffix.lower() in SUFFIXES:
            yield path.relative_to(root).as_posix(), path


def _read(
    path: Path, source: str, label: str, text_field: str | None, id_field: str | None
) -> Iterator[Record | SourceError]:
    suffix = path.suffix.lower()
    try:
        if suffix in _TEXTS:
            text = path.read_bytes().decode("utf-8-sig")
            yield Record(source, text, {"source": source}, _TEXTS[suffix], label)
        elif suffix in _TABLES:
            reader = RowReader(source, str(path), text_field, id_field, label)
            yield from _TABLES[suffix](path, reader)
        else:
            known = ", ".join(SUFFIXES)
            yield SourceError(str(path), f"unknown file type {suffix!r}; supported are {known}")
    except SourceError as error:
        yield error
    except UnicodeDecodeError as error:
        yield SourceError(
            str(path),
            f"is not valid UTF-8 ({error.reason} at byte {error.start}); convert the file",
        )
    except OSError as error:
        yield SourceError(str(path), f"cannot be opened: {error.strerror or error}")

"""The columns that Hive writes into the names of folders, such as `year=2026/month=7`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from quernstone.tables.types import convert
from quernstone_qdrant.errors import SourceError

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions_of(key: str, types: Mapping[str, str], path: str) -> dict[str, Any]:
    """Return the partition values of a file, by column. They are strings unless they have a type.

    Args:
        key: Key of the file; its folders are read.
        types: Types by column, as for CSV. Numbers may have leading zeros.
        path: Path of the file, for the error.

    Raises:
        SourceError: A value is not of its type.
    """
    found: dict[str, Any] = {}
    for part in PurePosixPath(key).parts[:-1]:
        name, equals, text = part.partition("=")
        if not (name and equals):
            continue
        name, value = unquote(name), unquote(text)
        kind = types.get(name, "str")
        if kind in ("int", "float"):
            value = value.lstrip("0") or "0"
        try:
            found[name] = None if text == _NULL else convert(value, kind)
        except ValueError as error:
            raise SourceError(path, f"the partition `{name}` {error}") from error
    return found

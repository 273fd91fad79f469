"""Check the types of metadata values against the payload indexes."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from quernstone_qdrant.settings import FieldType


def index_type_error(metadata: Mapping[str, Any], indexes: Mapping[str, FieldType]) -> str | None:
    """Describe the first value whose type its index cannot hold: filters would never find it.

    Returns:
        The reason for the record's error; None if every value fits.
    """
    for name, kind in indexes.items():
        for value in _values(metadata, name):
            if value is not None and not _fits(value, kind):
                found = type(value).__name__
                return (
                    f"the metadata field `{name}` is {value!r} ({found}), which its payload index "
                    f"of type {kind} does not hold: convert it (`--types {name}=...` for CSV), or "
                    "give the index another type"
                )
    return None


def _values(metadata: Any, path: str) -> Iterator[Any]:
    """Yield the values of a field. A dot is part of a name or separates the names of objects."""
    if isinstance(metadata, list):
        for item in metadata:
            yield from _values(item, path)
    elif not path:
        yield metadata
    elif isinstance(metadata, Mapping):
        parts = path.removesuffix("[]").replace("[].", ".").split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count]).strip('"')
            if name in metadata:
                yield from _values(metadata[name], ".".join(parts[count:]))


def _fits(value: Any, kind: FieldType) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind in ("integer", "float"):
        return isinstance(value, int if kind == "integer" else (int, float))
    if not isinstance(value, str):
        return False
    try:
        if kind == "datetime":
            datetime.datetime.fromisoformat(value)
        elif kind == "uuid":
            uuid.UUID(value)
    except ValueError:
        return False
    return True

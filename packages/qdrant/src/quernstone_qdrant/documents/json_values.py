"""Conversion of values to JSON.

Payloads are sent as JSON. The embedded client also accepts other values (NaN, numpy numbers), but a
server does not, so every value is converted before it is hashed, compared or sent.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

NESTING = 28
"""Maximum number of nested objects and lists in a field of the metadata. gRPC takes about 30, REST
122. A search over gRPC fails if it finds a point that is nested deeper."""

_INT64 = 2**63
_ADDRESS = re.compile(r"<.* at 0x[0-9A-Fa-f]+>")
"""Pattern of the default `repr` of an object, which contains its address."""


class UnstorableError(ValueError):
    """A value in metadata cannot be stored. `.path` leads to it, `.reason` says why."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason, self.path = reason, path

    def __str__(self) -> str:
        return f"the metadata field `{self.path.lstrip('.')}` {self.reason}"


def to_metadata(fields: Mapping[Any, Any]) -> dict[str, JsonValue]:
    """Convert metadata to JSON; see `to_json`.

    Raises:
        UnstorableError: A value is nested too deeply, or its `str` differs in every run.
    """
    return _object(fields, NESTING)


def to_json(value: Any, levels: int = NESTING) -> JsonValue:
    """Convert a value to JSON, deterministically.

    NaN, infinities and pandas' NaT and NA become null, dates ISO 8601 strings, numpy values Python
    values, bytes base64, and sets sorted lists. Decimals and integers beyond 64 bits become
    strings, so that no digit is lost. Any other value becomes its `str`.

    Args:
        value: The value.
        levels: Number of objects and lists that may be nested in each other.

    Raises:
        UnstorableError: The value is nested too deeply, or its `str` differs in every run.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(str.__str__(value))
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return int(value) if -_INT64 <= value < _INT64 else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _object(value, _below(levels))
    if isinstance(value, (list, tuple)):
        return _list(value, levels)
    return _other(value, levels)


def _object(fields: Mapping[Any, Any], levels: int) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for key, item in fields.items():
        name = storable(str(key))
        if name in found:
            raise UnstorableError("has two keys that are equal as text", f".{name}")
        try:
            found[name] = to_json(item, levels)
        except UnstorableError as error:
            raise UnstorableError(error.reason, f".{name}{error.path}") from None
    return found


def _list(items: Iterable[Any], levels: int) -> list[JsonValue]:
    levels, found = _below(levels), []
    for place, item in enumerate(items):
        try:
            found.append(to_json(item, levels))
        except UnstorableError as error:  # noqa: PERF203
            raise UnstorableError(error.reason, f"[{place}]{error.path}") from None
    return found


def _below(levels: int) -> int:
    if not levels:
        raise UnstorableError(
            f"is nested more than {NESTING} levels deep, the most that Qdrant's gRPC carries: "
            "flatten it, or store it as a JSON string"
        )
    return levels - 1


def _other(value: Any, levels: int) -> JsonValue:
    if isinstance(value, (np.generic, np.ndarray)):
        if isinstance(value, (np.datetime64, np.timedelta64)):
            return None if np.isnat(value) else str(value)
        return to_json(value.tolist(), levels)
    if isinstance(value, enum.Enum):
        return to_json(value.value, levels)
    if type(value).__name__ in ("NaTType", "NAType"):  # of pandas, which need not be installed
        return None
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return sorted(_list(value, levels), key=repr)
    if isinstance(value, (decimal.Decimal, uuid.UUID, PurePath, datetime.timedelta)):
        return str(value)
    try:
        text = str(value)
    except Exception as error:
        raise UnstorableError(f"is a {type(value).__name__} without a text: {error}") from error
    if _ADDRESS.search(text):
        raise UnstorableError(
            f"is a {type(value).__name__}, whose text {text[:80]!r} differs in every run: convert "
            "it to a string, a number or a mapping"
        )
    return storable(text)


def storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

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
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

_INT64 = 2**63


def to_json(value: Any) -> JsonValue:
    """Convert a value to JSON, deterministically.

    NaN and infinities become null, dates ISO 8601 strings, numpy values Python values, bytes
    base64, and sets sorted lists. Decimals and integers beyond 64 bits become strings, so that no
    digit is lost. Any other value becomes its `str`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return int(value) if -_INT64 <= value < _INT64 else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable(str(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return _other(value)


def too_deep(value: Any, levels: int) -> str | None:
    """Return the path of the first object or list nested more than `levels` deep, such as `.a[0]`.

    None if there is none.
    """
    if isinstance(value, Mapping):
        items = ((f".{name}", item) for name, item in value.items())
    elif isinstance(value, (list, tuple)):
        items = ((f"[{place}]", item) for place, item in enumerate(value))
    else:
        return None
    if not levels:
        return ""
    for name, item in items:
        rest = too_deep(item, levels - 1)
        if rest is not None:
            return f"{name}{rest}"
    return None


def _other(value: Any) -> JsonValue:
    if isinstance(value, (np.generic, np.ndarray)):
        if isinstance(value, (np.datetime64, np.timedelta64)):
            return None if np.isnat(value) else str(value)
        return to_json(value.tolist())
    if isinstance(value, enum.Enum):
        return to_json(value.value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, (set, frozenset)):
        return sorted((to_json(item) for item in value), key=repr)
    if isinstance(value, (decimal.Decimal, uuid.UUID, PurePath, datetime.timedelta)):
        return str(value)
    return storable(str(value))


def storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

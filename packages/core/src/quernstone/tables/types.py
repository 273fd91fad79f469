"""Convert the texts of CSV columns to numbers, dates and bools."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from quernstone.errors import ConfigError

_INT = re.compile(r"[-+]?(0|[1-9]\d*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_BOOLS = {"true": True, "false": False}


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError
    return _BOOLS[text.lower()]


def _date(text: str) -> str:
    return datetime.date.fromisoformat(text).isoformat()


def _datetime(text: str) -> str:
    return datetime.datetime.fromisoformat(text).isoformat()


CONVERTERS: Mapping[str, Callable[[str], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "date": _date,
    "datetime": _datetime,
    "str": str,
}
"""Converters by the names of types. They raise a ValueError."""


def check_types(types: Mapping[str, str]) -> None:
    """Raise a `ConfigError` for an unknown type."""
    for column, kind in types.items():
        if kind not in CONVERTERS:
            raise ConfigError(
                f"`types` has the type {kind!r} for column {column!r}; it must be one of "
                f"{', '.join(CONVERTERS)}"
            )


def convert(text: str, kind: str) -> Any:
    """Convert a value. An empty one becomes None, unless it is a string.

    Raises:
        ValueError: The value is not of this type. The message follows the name of the column, as
            in "is '12a', not of type int".
    """
    if not text and kind != "str":
        return None
    try:
        return CONVERTERS[kind](text.strip() if kind != "str" else text)
    except ValueError as error:
        raise ValueError(f"is {text!r}, not of type {kind}") from error

"""Filters on metadata, for any payload layout."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from qdrant_client.models import FieldCondition, Filter, MatchAny, MatchValue, Range

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.json_values import to_json
from quernstone_qdrant.documents.layouts import Layout

FieldValue: TypeAlias = "str | int | float | bool | Sequence[str | int | float | bool]"

_EXACT = 2**53
"""Integers below this size are exact as doubles, the numbers that a range compares."""
_SPREAD = 2**-50
"""Relative tolerance for doubles: a server stores some with their last two bits changed. It stores
whole ones exactly if ten times the number is below 2^53."""


def metadata_filter(values: Mapping[str, FieldValue], layout: Layout) -> Filter:
    """Build a filter for points whose metadata matches every one of `values`.

    Numbers match by value, whether stored as an integer or as a float: 5 matches 5.0. Fractions
    and floats above 9e14 match within one part in 2^50, because Qdrant changes the last bits of
    some. Integers from 2^53 on match only the same integer. A bool never matches a number.

    Args:
        values: Values by field; a dot separates the names of nested fields. A list matches any of
            its items.
        layout: Layout of the payload.

    Raises:
        ConfigError: A value has a type that cannot be filtered on, or is not finite.
    """
    return Filter(must=[_condition(layout.field(name), value) for name, value in values.items()])


def text_filter(conditions: Iterable[tuple[str, str]], layout: Layout) -> Filter:
    """Build a filter from (field, text) pairs: `1200` matches the number and the string."""
    must = []
    for name, text in conditions:
        path = layout.field(name)
        must.append(_condition(path, [text, *_parsed(text)]))
    return Filter(must=list(must))


def _condition(path: str, value: object) -> FieldCondition | Filter:
    stored = to_json(value)  # as the loader converts what it stores
    items = stored if isinstance(stored, list) else [stored]
    strings: list[str] = []
    conditions: list[FieldCondition] = []
    for item in items:
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, bool) or (isinstance(item, int) and abs(item) >= _EXACT):
            conditions.append(FieldCondition(key=path, match=MatchValue(value=item)))
        elif isinstance(item, (int, float)):
            conditions.append(FieldCondition(key=path, range=_around(item)))
        else:
            raise ConfigError(
                f"the filter on field {path!r} has a value of type {type(item).__name__} "
                f"({value!r}); pass a string, a finite number, a bool or a list of these"
            )
    if len(strings) == 1:
        conditions.append(FieldCondition(key=path, match=MatchValue(value=strings[0])))
    elif strings or not items:
        conditions.append(FieldCondition(key=path, match=MatchAny(any=strings)))
    return conditions[0] if len(conditions) == 1 else Filter(should=list(conditions))


def _around(number: float) -> Range:
    """Return the range of the values that a server may have stored for a number."""
    if isinstance(number, int) or (abs(number) < _EXACT / 10 and number.is_integer()):
        return Range(gte=number, lte=number)
    spread, largest = abs(number) * _SPREAD, sys.float_info.max
    return Range(gte=max(number - spread, -largest), lte=min(number + spread, largest))


def _parsed(text: str) -> list[float | bool]:
    """Return the bool or number that a text may stand for, if any."""
    if text in ("true", "false"):
        return [text == "true"]
    try:
        number = float(text)
    except ValueError:
        return []
    if not math.isfinite(number):
        return []
    return [int(text)] if number.is_integer() and text.lstrip("+-").isdecimal() else [number]

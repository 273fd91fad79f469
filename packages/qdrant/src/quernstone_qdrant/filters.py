"""Filters on metadata, for any payload layout."""

from __future__ import annotations

import decimal
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from qdrant_client.models import (
    DatetimeRange,
    FieldCondition,
    Filter,
    IsNullCondition,
    MatchAny,
    MatchValue,
    PayloadField,
    Range,
)

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.json_values import UnstorableError, to_json
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.documents.paths import field_paths

FieldValue: TypeAlias = "object"
"""Anything that a record's metadata may hold, or a mapping of bounds."""

_OPERATORS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
_CONDITION = re.compile(r"((?:\"[^\"]*\"|[^=<>\"])+)(>=|<=|=|<|>)(.*)", re.DOTALL)

_EXACT = 2**53
"""Integers below this size are exact as doubles, the numbers that a range compares."""
_SPREAD = 2**-50
"""Relative tolerance for doubles: a server stores some with their last two bits changed. It stores
whole ones exactly if ten times the number is below 2^53."""


def metadata_filter(values: Mapping[str, object], layout: Layout) -> Filter:
    """Build a filter for points whose metadata matches every one of `values`.

    A value is converted as the loader converts it, so any object finds the records that were loaded
    with it. Numbers match by value, whether stored as an integer or as a float: 5 matches 5.0.
    Fractions and floats above 9e14 match within one part in 2^50, because Qdrant changes the last
    bits of some. Integers from 2^53 on match only the same integer. A bool never matches a number.

    Args:
        values: Values by field. A dot in a name is part of it, or separates the names of nested
            fields: both are found. Quotes settle it (`"a.b".c`), and `[]` enters lists of objects
            (`authors[].name`). A list or a set matches any of its items, None a stored null, and a
            mapping such as `{"gte": 10, "lt": 20}` a range of numbers, dates or times.
        layout: Layout of the payload.

    Raises:
        ConfigError: A value cannot be filtered on, or no path of Qdrant has such a name.
    """
    return Filter(must=[_named(name, value, layout) for name, value in values.items()])


def text_filter(conditions: Iterable[tuple[str, str, str]], layout: Layout) -> Filter:
    """Build a filter from (field, operator, text) triples.

    With `=`, `1200` matches the number and the string. With `<`, `<=`, `>` and `>=`, the text must
    be a number, or a date or time in ISO 8601.
    """
    must = []
    for name, operator, text in conditions:
        value: object = [text, *_parsed(text)]
        if operator != "=":
            numbers = [one for one in _parsed(text) if not isinstance(one, bool)]
            value = {_OPERATORS[operator]: numbers[0] if numbers else text}
        must.append(_named(name, value, layout))
    return Filter(must=list(must))


def parse_condition(text: str) -> tuple[str, str, str]:
    """Split a condition such as `price>=10` into field, operator and text.

    Raises:
        ConfigError: The text is not a condition.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--filter {text!r} is not of the form FIELD=VALUE, FIELD>=VALUE, FIELD>VALUE, "
            "FIELD<=VALUE or FIELD<VALUE"
        )
    return found[1], found[2], found[3]


def _named(name: str, value: object, layout: Layout) -> FieldCondition | IsNullCondition | Filter:
    """Return the condition on a field, for every meaning of the dots in its name."""
    found = [_condition(layout.field(path), value) for path in field_paths(name)]
    return found[0] if len(found) == 1 else Filter(should=list(found))


def _condition(path: str, value: object) -> FieldCondition | IsNullCondition | Filter:
    if isinstance(value, Mapping):
        return _range(path, value)
    if isinstance(value, decimal.Decimal):  # a string, but a number if it came from Parquet
        value = [value, float(value)]
    try:
        stored = to_json(value)  # as the loader converts what it stores
    except UnstorableError as error:
        raise ConfigError(f"the filter on field {path!r} {error.reason}") from error
    strings: list[str] = []
    conditions: list[FieldCondition | IsNullCondition] = []
    for item in _flat(stored):
        if isinstance(item, str):
            strings.append(item)
        elif item is None:
            conditions.append(IsNullCondition(is_null=PayloadField(key=path)))
        elif isinstance(item, bool) or (isinstance(item, int) and abs(item) >= _EXACT):
            conditions.append(FieldCondition(key=path, match=MatchValue(value=item)))
        elif isinstance(item, (int, float)):
            conditions.append(FieldCondition(key=path, range=_around(item)))
        else:
            raise ConfigError(
                f"the filter on field {path!r} has an object in its list ({item!r}); pass strings, "
                "numbers, bools or dates"
            )
    if len(strings) == 1:
        conditions.append(FieldCondition(key=path, match=MatchValue(value=strings[0])))
    elif strings or not conditions:
        conditions.append(FieldCondition(key=path, match=MatchAny(any=strings)))
    return conditions[0] if len(conditions) == 1 else Filter(should=list(conditions))


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _range(path: str, bounds: Mapping[Any, object]) -> FieldCondition:
    """Return a range of numbers, or of dates and times."""
    converted: dict[str, Any] = {
        name: float(bound) if isinstance(bound, decimal.Decimal) else to_json(bound)
        for name, bound in bounds.items()
    }
    known = set(_OPERATORS.values())
    kinds = {str if isinstance(bound, str) else type(bound) for bound in converted.values()}
    is_text = kinds == {str}
    if not converted or not known.issuperset(converted) or not (is_text or kinds <= {int, float}):
        raise ConfigError(
            f"the filter on field {path!r} has the range {dict(bounds)!r}; pass numbers, dates or "
            f"times by the names {', '.join(sorted(known))}"
        )
    if not is_text:
        return FieldCondition(key=path, range=Range(**converted))
    try:
        return FieldCondition(key=path, range=DatetimeRange(**converted))
    except ValueError as error:
        raise ConfigError(
            f"the filter on field {path!r} has the range {dict(bounds)!r}, which holds neither "
            "numbers nor dates or times in ISO 8601"
        ) from error


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

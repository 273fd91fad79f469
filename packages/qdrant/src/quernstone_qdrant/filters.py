"""Filters on metadata, for any payload layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client.models import FieldCondition, Filter, MatchAny, MatchValue, Range

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import Layout

FieldValue: TypeAlias = "str | int | float | bool | Sequence[str] | Sequence[int]"


def metadata_filter(values: Mapping[str, FieldValue], layout: Layout) -> Filter:
    """Build a filter for points whose metadata matches every one of `values`.

    Args:
        values: Values by field; a dot separates the names of nested fields. A list matches any of
            its items.
        layout: Layout of the payload.

    Raises:
        ConfigError: A value has a type that cannot be filtered on.
    """
    return Filter(must=[_condition(layout.field(name), value) for name, value in values.items()])


def text_filter(conditions: Iterable[tuple[str, str]], layout: Layout) -> Filter:
    """Build a filter from (field, text) pairs: `1200` matches the number and the string."""
    must = []
    for name, text in conditions:
        path = layout.field(name)
        values: list[FieldValue] = [text, *_parsed(text)]
        must.append(Filter(should=[_condition(path, value) for value in values]))
    return Filter(must=list(must))


def _condition(path: str, value: FieldValue) -> FieldCondition:
    if isinstance(value, (str, bool, int)):
        return FieldCondition(key=path, match=MatchValue(value=value))
    if isinstance(value, float):
        return FieldCondition(key=path, range=Range(gte=value, lte=value))
    if isinstance(value, Sequence):
        items: list[Any] = list(value)
        return FieldCondition(key=path, match=MatchAny(any=items))
    raise ConfigError(
        f"the filter on field {path!r} has a value of type {type(value).__name__}; pass a string, "
        "a number, a bool or a list of strings or integers"
    )


def _parsed(text: str) -> list[FieldValue]:
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

"""Filters on metadata, whatever the layout of the payload."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client.models import FieldCondition, Filter, MatchAny, MatchValue, Range

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import Layout

FieldValue: TypeAlias = "str | int | float | bool | Sequence[str] | Sequence[int]"


def metadata_filter(values: Mapping[str, FieldValue], layout: Layout) -> Filter:
    """A filter for points whose metadata has all of some values.

    Args:
        values: By field; dots lead into nested fields. A list asks for any of its members.
        layout: Of the payload.

    Raises:
        ConfigError: A value of no such type.
    """
    return Filter(must=[_condition(layout.field(name), value) for name, value in values.items()])


def text_filter(conditions: Iterable[tuple[str, str]], layout: Layout) -> Filter:
    """A filter for values that were typed as text: `1200` finds the number and the string."""
    must = []
    for name, text in conditions:
        path = layout.field(name)
        readings: list[FieldValue] = [text, *_numbers(text)]
        must.append(Filter(should=[_condition(path, value) for value in readings]))
    return Filter(must=list(must))


def _condition(path: str, value: FieldValue) -> FieldCondition:
    if isinstance(value, (str, bool, int)):
        return FieldCondition(key=path, match=MatchValue(value=value))
    if isinstance(value, float):
        return FieldCondition(key=path, range=Range(gte=value, lte=value))
    if isinstance(value, Sequence):
        members: list[Any] = list(value)
        return FieldCondition(key=path, match=MatchAny(any=members))
    raise ConfigError(f"a {type(value).__name__} cannot be filtered on (field {path!r})")


def _numbers(text: str) -> list[FieldValue]:
    """What else a typed text may mean."""
    if text in ("true", "false"):
        return [text == "true"]
    try:
        number = float(text)
    except ValueError:
        return []
    if not math.isfinite(number):
        return []
    return [int(text)] if number.is_integer() and text.lstrip("+-").isdecimal() else [number]

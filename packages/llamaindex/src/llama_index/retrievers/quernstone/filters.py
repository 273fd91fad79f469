"""LlamaIndex's metadata filters as Qdrant filters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client.models import (
    DatetimeRange,
    FieldCondition,
    Filter,
    IsEmptyCondition,
    IsNullCondition,
    MatchText,
    PayloadField,
    Range,
)

from quernstone import ConfigError
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.filters import metadata_filter

_RANGES = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}
_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)


def to_qdrant(filters: MetadataFilters, layout: Layout) -> Filter:
    """Convert filters to a Qdrant filter on the payloads of a layout.

    Numbers are compared as in `quernstone_qdrant.filters.metadata_filter`. A string in ISO format
    is compared as a date by `>`, `>=`, `<` and `<=`.

    Raises:
        ConfigError: An operator is not supported, or does not fit its value.
    """
    parts: list[Any] = [
        to_qdrant(part, layout) if isinstance(part, MetadataFilters) else _condition(part, layout)
        for part in filters.filters
    ]
    if filters.condition == FilterCondition.OR:
        return Filter(should=parts)
    if filters.condition == FilterCondition.NOT:
        return Filter(must_not=parts)
    return Filter(must=parts)


def _condition(part: MetadataFilter, layout: Layout) -> Any:
    operator, value, path = part.operator, part.value, layout.field(part.key)
    if operator in _LISTS and not isinstance(value, list):
        raise ConfigError(f"{_named(part)} needs a list, not {value!r}")

    def equal(wanted: Any) -> Filter:
        return metadata_filter({part.key: wanted}, layout)

    if operator in _RANGES:
        return _range(part, path)
    conditions: dict[FilterOperator, Callable[[], Any]] = {
        FilterOperator.EQ: lambda: equal(value),
        FilterOperator.CONTAINS: lambda: equal(value),  # a list matches if an item does
        FilterOperator.IN: lambda: equal(value),
        FilterOperator.ANY: lambda: equal(value),
        FilterOperator.ALL: lambda: Filter(must=[equal(item) for item in _items(value)]),
        FilterOperator.NE: lambda: Filter(must_not=[equal(value)]),
        FilterOperator.NIN: lambda: Filter(must_not=[equal(value)]),
        FilterOperator.TEXT_MATCH: lambda: FieldCondition(
            key=path, match=MatchText(text=str(value))
        ),
        FilterOperator.IS_EMPTY: lambda: Filter(
            should=[
                IsEmptyCondition(is_empty=PayloadField(key=path)),
                IsNullCondition(is_null=PayloadField(key=path)),
            ]
        ),
    }
    if operator not in conditions:
        raise ConfigError(
            f"{_named(part)} is not supported: use `text_match`, which compares texts as the "
            "payload index of the field does"
        )
    return conditions[operator]()


def _items(value: Any) -> list[Any]:
    return list(value)


def _range(part: MetadataFilter, path: str) -> FieldCondition:
    bound, value = _RANGES[part.operator], part.value
    if isinstance(value, (int, float)):
        return FieldCondition(key=path, range=Range(**{bound: value}))
    try:
        date = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{_named(part)} needs a number or an ISO date, not {value!r}") from error
    return FieldCondition(key=path, range=DatetimeRange(**{bound: date}))


def _named(part: MetadataFilter) -> str:
    return f"the filter `{part.operator.value}` on field {part.key!r}"

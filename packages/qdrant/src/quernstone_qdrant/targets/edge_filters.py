"""Translate Qdrant's filters to those of Qdrant Edge.

Filters are translated from their JSON form, which names every kind of condition. An unknown
condition is therefore rejected by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client.models import Filter

from quernstone.errors import ConfigError

_CLAUSES = ("must", "should", "must_not")


def edge_filter(where: Filter | None) -> edge.Filter | None:
    """Translate a filter.

    Raises:
        ConfigError: Edge does not support a condition of the filter; the error names it.
    """
    if where is None:
        return None
    return _filter(where.model_dump(mode="json", by_alias=True, exclude_none=True))


def _filter(source: Mapping[str, Any]) -> edge.Filter:
    _reject_unknown(source, (*_CLAUSES, "min_should"), "a clause of a filter")
    clauses: dict[str, Any] = {
        name: _conditions(source[name]) for name in _CLAUSES if name in source
    }
    if "min_should" in source:
        least = source["min_should"]
        clauses["min_should"] = edge.MinShould(_conditions(least["conditions"]), least["min_count"])
    return edge.Filter(**clauses)


def _conditions(source: Any) -> list[Any]:
    return [_condition(item) for item in (source if isinstance(source, list) else [source])]


def _condition(source: Mapping[str, Any]) -> Any:
    if "key" in source:
        return _field_condition(source)
    for name, translate in _CONDITIONS.items():
        if name in source:
            return translate(source[name])
    return _filter(source)  # a nested filter, which also rejects unknown conditions


def _field_condition(source: Mapping[str, Any]) -> edge.FieldCondition:
    tests = {name: test for name, test in source.items() if name != "key"}
    _reject_unknown(tests, _TESTS, "a condition on a field")
    translated = {name: _TESTS[name](test) for name, test in tests.items()}
    return edge.FieldCondition(source["key"], **translated)


def _match(source: Mapping[str, Any]) -> Any:
    _reject_unknown(source, _MATCHES, "a match")
    [(name, value)] = source.items()
    if isinstance(value, bool):
        # Edge 0.9 reads a Python bool as the integer 0 or 1, which never matches a stored bool.
        # `np.bool_` is not an int, so it is read correctly.
        value = np.bool_(value)
    return _MATCHES[name](value)


def _range(source: Mapping[str, Any]) -> Any:
    dates = any(isinstance(bound, str) for bound in source.values())
    return edge.RangeDateTime(**source) if dates else edge.RangeFloat(**source)


def _geo(source: Mapping[str, Any]) -> edge.GeoPoint:
    return edge.GeoPoint(source["lon"], source["lat"])


def _ring(source: Mapping[str, Any]) -> list[edge.GeoPoint]:
    return [_geo(point) for point in source["points"]]


def _reject_unknown(source: Mapping[str, Any], known: Any, role: str) -> None:
    for name in source:
        if name not in known:
            raise ConfigError(f"Qdrant Edge does not support {name!r} as {role}; use a server")


_CONDITIONS: Mapping[str, Callable[[Any], Any]] = {
    "is_empty": lambda field: edge.IsEmptyCondition(field["key"]),
    "is_null": lambda field: edge.IsNullCondition(field["key"]),
    "has_id": lambda ids: edge.HasIdCondition(set(ids)),
    "has_vector": edge.HasVectorCondition,
    "nested": lambda nested: edge.NestedCondition(nested["key"], _filter(nested["filter"])),
}

_TESTS: Mapping[str, Callable[[Any], Any]] = {
    "match": _match,
    "range": _range,
    "values_count": lambda bounds: edge.ValuesCount(**bounds),
    "geo_bounding_box": lambda box: edge.GeoBoundingBox(
        _geo(box["top_left"]), _geo(box["bottom_right"])
    ),
    "geo_radius": lambda circle: edge.GeoRadius(_geo(circle["center"]), circle["radius"]),
    "geo_polygon": lambda polygon: edge.GeoPolygon(
        _ring(polygon["exterior"]), [_ring(inner) for inner in polygon.get("interiors", [])]
    ),
    "is_empty": bool,
    "is_null": bool,
}

_MATCHES: Mapping[str, Callable[[Any], Any]] = {
    "value": edge.MatchValue,
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
    "substring": edge.MatchSubstring,
    "any": edge.MatchAny,
    "except": edge.MatchExcept,
}

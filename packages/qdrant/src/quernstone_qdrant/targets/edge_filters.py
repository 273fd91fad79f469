"""Qdrant's filters, in the words of Qdrant Edge.

The JSON form is what is translated: it names every kind of condition, so one that is new is refused
by its name instead of being passed over.
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
        ConfigError: It holds a condition that Edge does not have; the error names it.
    """
    if where is None:
        return None
    return _filter(where.model_dump(mode="json", by_alias=True, exclude_none=True))


def _filter(stated: Mapping[str, Any]) -> edge.Filter:
    _refuse_unknown(stated, (*_CLAUSES, "min_should"), "a filter's clause")
    clauses: dict[str, Any] = {
        name: _conditions(stated[name]) for name in _CLAUSES if name in stated
    }
    if "min_should" in stated:
        least = stated["min_should"]
        clauses["min_should"] = edge.MinShould(_conditions(least["conditions"]), least["min_count"])
    return edge.Filter(**clauses)


def _conditions(stated: Any) -> list[Any]:
    return [_condition(one) for one in (stated if isinstance(stated, list) else [stated])]


def _condition(stated: Mapping[str, Any]) -> Any:
    if "key" in stated:
        return _field_condition(stated)
    for name, make in _CONDITIONS.items():
        if name in stated:
            return make(stated[name])
    return _filter(stated)  # an empty one, too, or one that is unknown


def _field_condition(stated: Mapping[str, Any]) -> edge.FieldCondition:
    tests = {name: test for name, test in stated.items() if name != "key"}
    _refuse_unknown(tests, _TESTS, "a condition on a field")
    made = {name: _TESTS[name](test) for name, test in tests.items()}
    return edge.FieldCondition(stated["key"], **made)


def _match(stated: Mapping[str, Any]) -> Any:
    _refuse_unknown(stated, _MATCHES, "a match")
    [(name, value)] = stated.items()
    if isinstance(value, bool):
        # Edge 0.9 reads a Python bool as the integer 0 or 1, which matches no stored bool; numpy's
        # is not an integer.
        value = np.bool_(value)
    return _MATCHES[name](value)


def _range(stated: Mapping[str, Any]) -> Any:
    dates = any(isinstance(bound, str) for bound in stated.values())
    return edge.RangeDateTime(**stated) if dates else edge.RangeFloat(**stated)


def _geo(stated: Mapping[str, Any]) -> edge.GeoPoint:
    return edge.GeoPoint(stated["lon"], stated["lat"])


def _ring(stated: Mapping[str, Any]) -> list[edge.GeoPoint]:
    return [_geo(point) for point in stated["points"]]


def _refuse_unknown(stated: Mapping[str, Any], known: Any, what: str) -> None:
    for name in stated:
        if name not in known:
            raise ConfigError(f"Qdrant Edge does not have {name!r} as {what}; use a server")


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

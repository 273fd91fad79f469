"""Translate formulas of scores to the types of Qdrant Edge."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from qdrant_client import models

from quernstone_qdrant.targets.edge_filters import edge_filter

_ONE: dict[Any, tuple[str, Any]] = {
    models.NegExpression: ("neg", edge.Expression.Neg),
    models.AbsExpression: ("abs", edge.Expression.Abs),
    models.SqrtExpression: ("sqrt", edge.Expression.Sqrt),
    models.ExpExpression: ("exp", edge.Expression.Exp),
    models.Log10Expression: ("log10", edge.Expression.Log10),
    models.LnExpression: ("ln", edge.Expression.Ln),
    models.AcoshExpression: ("acosh", edge.Expression.Acosh),
}
"""Expressions of one operand: its field, and Edge's expression."""
_SEVERAL: dict[Any, tuple[str, Any]] = {
    models.SumExpression: ("sum", edge.Expression.Sum),
    models.MultExpression: ("mult", edge.Expression.Mult),
    models.MaxExpression: ("max", edge.Expression.Max),
    models.MinExpression: ("min", edge.Expression.Min),
}
_DECAYS: dict[Any, tuple[str, Any]] = {
    models.LinDecayExpression: ("lin_decay", edge.DecayKind.Lin),
    models.GaussDecayExpression: ("gauss_decay", edge.DecayKind.Gauss),
    models.ExpDecayExpression: ("exp_decay", edge.DecayKind.Exp),
}


def edge_formula(query: models.FormulaQuery) -> Any:
    """Translate a formula.

    Raises:
        ConfigError: Edge does not support a condition in the formula.
    """
    return edge.Formula(_expression(query.formula), query.defaults or None)


def _expression(given: Any) -> Any:
    kind = type(given)
    if kind in (int, float):
        return edge.Expression.Constant(float(given))
    if kind is str:
        return edge.Expression.Variable(given)
    if kind in _ONE:
        name, make = _ONE[kind]
        return make(_expression(getattr(given, name)))
    if kind in _SEVERAL:
        name, combine = _SEVERAL[kind]
        return combine([_expression(part) for part in getattr(given, name)])
    if kind in _DECAYS:
        name, decay = _DECAYS[kind]
        return _decay(decay, getattr(given, name))
    if isinstance(given, models.DivExpression):
        parts = given.div
        left, right = _expression(parts.left), _expression(parts.right)
        return edge.Expression.Div(left, right, parts.by_zero_default)
    if isinstance(given, models.PowExpression):
        return edge.Expression.Pow(_expression(given.pow.base), _expression(given.pow.exponent))
    if isinstance(given, models.DatetimeExpression):
        return edge.Expression.Datetime(given.datetime)
    if isinstance(given, models.DatetimeKeyExpression):
        return edge.Expression.DatetimeKey(given.datetime_key)
    if isinstance(given, models.GeoDistance):
        origin = given.geo_distance.origin
        place = edge.GeoPoint(origin.lon, origin.lat)
        return edge.Expression.GeoDistance(place, given.geo_distance.to)
    condition: Any = edge_filter(models.Filter(must=[given]))
    return edge.Expression.Condition(condition)


def _decay(kind: edge.DecayKind, given: models.DecayParamsExpression) -> Any:
    target = None if given.target is None else _expression(given.target)
    return edge.Expression.Decay(kind, _expression(given.x), target, given.midpoint, given.scale)

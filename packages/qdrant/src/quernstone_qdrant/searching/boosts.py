"""Boosts: raise the scores of recent or popular documents, or compute them by a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.documents.paths import field_paths

_LONG_AGO = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Recency:
    """A boost for recent documents: `weight` for a new one, halved after each `half_life`.

    Documents without the date get no boost. A date in the future counts like one equally far in
    the past.

    Args:
        field: Metadata field with a date or a time in ISO 8601.
        half_life: Age at which a document gets half of the boost.
        weight: The largest boost; the scores of a search go up to 1.

    Raises:
        ConfigError: `half_life` is not positive, or `weight` is not a finite number.
    """

    field: str
    half_life: timedelta
    weight: float = 0.1

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if not isinstance(self.half_life, timedelta) or self.half_life <= timedelta(0):
            raise ConfigError(
                f"`half_life` is {self.half_life!r}; it must be a positive `datetime.timedelta`"
            )

    def term(self, path: str, now: datetime) -> tuple[Any, Any]:
        """Return the boost as an expression, and the value of documents without the field."""
        age = models.DecayParamsExpression(
            x=models.DatetimeKeyExpression(datetime_key=path),
            target=models.DatetimeExpression(datetime=now.isoformat()),
            scale=self.half_life.total_seconds(),
            midpoint=0.5,
        )
        return models.ExpDecayExpression(exp_decay=age), _LONG_AGO


@dataclass(frozen=True, slots=True)
class Popularity:
    """A boost for documents with a high number, such as their views: `weight` * n / (n + `half`).

    Documents without the number get no boost.

    Args:
        field: Metadata field with a number.
        half: The number that gets half of the boost.
        weight: The largest boost; the scores of a search go up to 1.

    Raises:
        ConfigError: `half` is not a positive number, or `weight` is not a finite one.
    """

    field: str
    half: float
    weight: float = 0.1

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if not _is_number(self.half) or self.half <= 0:
            raise ConfigError(f"`half` is {self.half!r}; it must be a number above 0")

    def term(self, path: str, now: datetime) -> tuple[Any, Any]:  # noqa: ARG002 - as `Recency`
        """Return the boost as an expression, and the value of documents without the field."""
        size = models.SumExpression(sum=[models.AbsExpression(abs=path), self.half])
        return models.DivExpression(div=models.DivParams(left=path, right=size)), 0.0


Boost: TypeAlias = "Recency | Popularity"
Boosts: TypeAlias = "Boost | Sequence[Boost] | models.FormulaQuery"
"""Boosts that are added to the score, or a formula of Qdrant for the score."""


def listed_boosts(given: Boosts) -> list[Boost]:
    """Return the boosts of an option; none for a formula of the user.

    Raises:
        ConfigError: An item is something else.
    """
    if isinstance(given, models.FormulaQuery):
        return []
    items = [given] if isinstance(given, (Recency, Popularity)) else given
    if not isinstance(items, Sequence) or not items:
        raise ConfigError(f"`boost` is {given!r}; {_EXPECTED}")
    for item in items:
        if not isinstance(item, (Recency, Popularity)):
            raise ConfigError(f"`boost` has the item {item!r}; {_EXPECTED}")
    return list(items)


_EXPECTED = (
    "it must be a `Recency`, a `Popularity`, a list of them, or a `qdrant_client.models."
    "FormulaQuery`"
)


def boost_formula(given: Boosts, layout: Layout, now: datetime, best: float) -> models.FormulaQuery:
    """Return the formula of the boosted score.

    Args:
        given: The boosts; a formula is returned as it is.
        layout: Layout of the payload.
        now: The time at which documents are new.
        best: The best possible score of the search, by which scores are divided: 1 for cosines.

    Raises:
        ConfigError: A field has no path.
    """
    if isinstance(given, models.FormulaQuery):
        return given
    score: Any = "$score" if best == 1 else models.MultExpression(mult=[1 / best, "$score"])
    terms, defaults = [score], {}
    for boost in listed_boosts(given):
        path = layout.field(field_paths(boost.field)[0])
        term, defaults[path] = boost.term(path, now)
        terms.append(models.MultExpression(mult=[boost.weight, term]))
    return models.FormulaQuery(formula=models.SumExpression(sum=terms), defaults=defaults)


def utc_now() -> datetime:
    """Return the present time to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def _check_weight(weight: object) -> None:
    if not _is_number(weight):
        raise ConfigError(f"`weight` is {weight!r}; it must be a finite number")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

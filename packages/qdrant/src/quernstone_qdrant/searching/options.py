"""The options of searches, as keyword arguments and as values that are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypedDict

from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.filters import FieldValue
from quernstone_qdrant.targets.requests import Consistency, Feature

_WORDS = ("majority", "quorum", "all")


class SearchOptions(TypedDict, total=False):
    """Keyword arguments of `QdrantSearcher.search_many`, which documents them."""

    hybrid: bool | None
    query_filter: Filter | Mapping[str, FieldValue] | None
    candidates: int | None
    prefetch: int | None
    instruction: str | None


class OneSearchOptions(SearchOptions, total=False):
    """Keyword arguments of `QdrantSearcher.search`, which documents them."""

    vector: Sequence[float] | Float32Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of a search; see `QdrantSearcher.search`."""

    query: str
    limit: int
    reranked: bool
    """True if a reranker orders the hits."""
    hybrid: bool | None = None
    query_filter: Filter | Mapping[str, FieldValue] | None = None
    candidates: int | None = None
    prefetch: int | None = None
    instruction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Which replicas of a server answer searches, and how long they may take.

    Raises:
        ConfigError: A value is not one that Qdrant has.
    """

    consistency: Consistency | None = None
    timeout: int | None = None

    def __post_init__(self) -> None:
        asked, seconds = self.consistency, self.timeout
        if asked is not None and asked not in _WORDS and not is_count(asked):
            raise ConfigError(
                f"`consistency` is {asked!r}; it must be a number of replicas, at least 1, or "
                f"one of {', '.join(_WORDS)}"
            )
        if seconds is not None and not is_count(seconds):
            raise ConfigError(
                f"`timeout` is {seconds!r}; it must be a whole number of seconds, at least 1"
            )

    @property
    def features(self) -> list[Feature]:
        """The features that a target needs for these values."""
        asked: dict[Feature, object] = {"consistency": self.consistency, "timeout": self.timeout}
        return [name for name, value in asked.items() if value is not None]


def make_question(query: str, limit: int, *, reranked: bool, options: SearchOptions) -> Question:
    """Return the question that these arguments ask.

    Raises:
        TypeError: An option is unknown.
    """
    known = SearchOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(
                f"`{name}` is not an option of a search; the options are {', '.join(known)}"
            )
    return Question(query=query, limit=limit, reranked=reranked, **options)


def is_whole(value: object) -> bool:
    """Return True for a whole number, also one of NumPy, and False for a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Return True for a whole number from 1 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1

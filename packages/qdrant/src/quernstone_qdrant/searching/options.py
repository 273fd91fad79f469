"""The options of searches, as keyword arguments and as values that are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypeAlias, TypedDict

from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.filters import FieldValue
from quernstone_qdrant.targets.requests import Consistency, Feature

_WORDS = ("majority", "quorum", "all")

SearchFilter: TypeAlias = "Filter | Mapping[str, FieldValue] | Callable[[Layout], Filter] | None"
"""A filter of a search; a function gets the layout of the collection that is searched."""


class SearchOptions(TypedDict, total=False):
    """Keyword arguments of `QdrantSearcher.search_many`, which documents them."""

    hybrid: bool | None
    query_filter: SearchFilter
    candidates: int | None
    prefetch: int | None
    instruction: str | None


class OneSearchOptions(SearchOptions, total=False):
    """Keyword arguments of `QdrantSearcher.search`, which documents them."""

    vector: Sequence[float] | Float32Array | None
    hypothetical: Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of a search; see `QdrantSearcher.search`."""

    query: str
    limit: int
    reranked: bool
    """True if a reranker orders the hits."""
    embedded: tuple[str, ...]
    """Texts to embed; the mean of their vectors is searched for. Empty: a vector was given."""
    hybrid: bool | None = None
    query_filter: SearchFilter = None
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


def make_question(
    query: str,
    limit: int,
    *,
    embedded: Sequence[str] | None,
    reranked: bool,
    options: SearchOptions,
) -> Question:
    """Return the question that these arguments ask.

    Args:
        query: The text to search for.
        limit: Maximum number of hits.
        embedded: Texts to embed; None: the query.
        reranked: True if a reranker orders the hits.
        options: The other arguments.

    Raises:
        TypeError: An option is unknown.
    """
    known = SearchOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(
                f"`{name}` is not an option of a search; the options are {', '.join(known)}"
            )
    texts = (query,) if embedded is None else tuple(embedded)
    return Question(query=query, limit=limit, reranked=reranked, embedded=texts, **options)


def embedded_texts(hypothetical: Sequence[str], vector: object) -> tuple[str, ...]:
    """Return the texts to embed instead of a query.

    Raises:
        ConfigError: There is none, it is a single text, or there is a vector beside it.
    """
    if vector is not None or isinstance(hypothetical, str) or not hypothetical:
        raise ConfigError("`hypothetical` must be a list of texts, without `vector` beside it")
    return tuple(hypothetical)


def listed(queries: Iterable[str]) -> list[str]:
    """Return queries as a list.

    Raises:
        ConfigError: They are one text.
    """
    if isinstance(queries, str):
        raise ConfigError("`queries` is one text; pass a list of texts, or use `search`")
    return list(queries)


def is_whole(value: object) -> bool:
    """Return True for a whole number, also one of NumPy, and False for a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Return True for a whole number from 1 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1

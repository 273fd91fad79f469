"""The options of searches: keyword arguments, and their checked values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from numbers import Integral
from typing import Any, TypeAlias, TypedDict

from qdrant_client.models import Filter, Mmr

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.filters import FieldValue
from quernstone_qdrant.searching.boosts import Boosts, listed_boosts, utc_now
from quernstone_qdrant.searching.feedback import Feedback
from quernstone_qdrant.targets.requests import Consistency, Feature, FeedbackExample

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
    diversity: float | Mmr | None
    boost: Boosts | None
    feedback: Feedback | None


class OneSearchOptions(SearchOptions, total=False):
    """Keyword arguments of `QdrantSearcher.search`, which documents them."""

    vector: Sequence[float] | Float32Array | None
    hypothetical: Sequence[str] | None
    group_by: str | None
    group_size: int | None
    per_document: int | None


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
    diversity: float | Mmr | None = None
    boost: Boosts | None = None
    feedback: Feedback | None = None
    group_by: str | None = None
    group_size: int | None = None
    per_document: int | None = None
    asked: datetime = field(default_factory=utc_now)
    """Time of the question; repeated requests use the same."""
    examples: tuple[FeedbackExample, ...] | None = None
    """With `feedback`: the seeds, scored by the reranker; None before that."""

    @property
    def features(self) -> list[Feature]:
        """The features that a target needs for this question."""
        asked: dict[Feature, object] = {
            "diversity": self.diversity,
            "boost": self.boost,
            "feedback": self.feedback,
            "group_by": self.group_by if self.per_document is None else self.per_document,
        }
        return [name for name, value in asked.items() if value is not None]

    @property
    def boosted_fields(self) -> list[str]:
        """Metadata fields that boosts read."""
        return [] if self.boost is None else [one.field for one in listed_boosts(self.boost)]

    @property
    def fields(self) -> list[str]:
        """All metadata fields that the options name."""
        where = self.query_filter
        named = [*where] if isinstance(where, Mapping) else []
        grouped = [] if self.group_by is None else [self.group_by]
        return [*named, *grouped, *self.boosted_fields]


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
    options: Mapping[str, Any],
) -> Question:
    """Create a question from the arguments of a search.

    Args:
        query: The text to search for.
        limit: Maximum number of hits.
        embedded: Texts to embed; None: the query.
        reranked: True if a reranker orders the hits.
        options: The other arguments.

    Raises:
        TypeError: An option is unknown.
        ConfigError: An option would be ignored, or two exclude each other.
    """
    known = [*OneSearchOptions.__annotations__]
    for name in options:
        if name not in known:
            raise TypeError(
                f"`{name}` is not an option of a search; the options are {', '.join(known)}"
            )
    texts = (query,) if embedded is None else tuple(embedded)
    question = Question(query=query, limit=limit, reranked=reranked, embedded=texts, **options)
    given = [name for name in known if options.get(name) is not None]
    for name, other, reason in _EXCLUDED:
        if name in given and other in given:
            raise ConfigError(f"`{name}` and `{other}` exclude each other: {reason}")
    if "group_size" in given and "group_by" not in given:
        raise ConfigError("`group_size` needs `group_by`, the field whose values form the groups")
    if "feedback" in given and not reranked:
        raise ConfigError("`feedback` needs a reranker, which scores the first hits: pass one")
    return question


_NO_ORDER = "Qdrant orders groups by score, so the order of MMR would be lost"
_BY_SIMILARITY = "MMR chooses by similarity alone, so the boost would be lost"
_EXCLUDED = (
    ("group_by", "per_document", "a search has one kind of groups"),
    ("diversity", "group_by", _NO_ORDER),
    ("diversity", "per_document", _NO_ORDER),
    ("diversity", "boost", _BY_SIMILARITY),
    ("diversity", "feedback", "the reranker orders the hits of both searches"),
    ("boost", "feedback", "scores of feedback are not cosines, so a boost has no scale"),
)


def embedded_texts(hypothetical: Sequence[str], vector: object) -> tuple[str, ...]:
    """Return the texts to embed instead of a query.

    Raises:
        ConfigError: The list is empty, it is a single text, or `vector` was given as well.
    """
    if vector is not None or isinstance(hypothetical, str) or not hypothetical:
        raise ConfigError("`hypothetical` must be a list of texts, and excludes `vector`")
    return tuple(hypothetical)


def listed(queries: Iterable[str]) -> list[str]:
    """Return queries as a list.

    Raises:
        ConfigError: `queries` is a single text.
    """
    if isinstance(queries, str):
        raise ConfigError("`queries` is one text; pass a list of texts, or use `search`")
    return list(queries)


def check_many(options: Mapping[str, Any]) -> None:
    """Check the options of a search for several queries.

    Raises:
        ConfigError: One of them is for single queries.
    """
    for name in OneSearchOptions.__annotations__:
        if name not in SearchOptions.__annotations__ and options.get(name) is not None:
            raise ConfigError(f"`{name}` is for single queries: use `search` for each of them")


def is_whole(value: object) -> bool:
    """Return True for a whole number, also one of NumPy, and False for a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Return True for a whole number of at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1

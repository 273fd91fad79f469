"""Check the arguments of a search against a collection, and fill in the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone_qdrant.filters import metadata_filter
from quernstone_qdrant.searching.options import Question, is_whole
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets.base import Limits

_CANDIDATES_PER_HIT = 4
_MIN_CANDIDATES = 20
_PREFETCH_PER_HIT = 20
_MIN_PREFETCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A question to one collection, with its arguments checked and the defaults filled in."""

    query: str
    fetched: int
    prefetch: int
    hybrid: bool
    where: Filter | None


def plan(
    question: Question, settings: CollectionSettings, limits: Limits, collection: str
) -> Search:
    """Check the arguments of a search and fill in the defaults.

    Args:
        question: The arguments.
        settings: Settings of the collection.
        limits: Limits of its strict mode.
        collection: Its name, for errors.

    Raises:
        ConfigError: An argument is out of range, or the collection has no BM25.
    """
    limit, candidates, hybrid = question.limit, question.candidates, question.hybrid
    numbers = {"limit": limit, "candidates": candidates, "prefetch": question.prefetch}
    for name, value in numbers.items():
        if value is not None and not is_whole(value):
            raise ConfigError(f"`{name}` is {value!r}; it must be a whole number")
    if limit < 1:
        raise ConfigError(f"`limit` is {limit}; it must be at least 1")
    if candidates is not None and candidates < limit:
        raise ConfigError(f"`candidates` is {candidates}; it must be at least `limit`, {limit}")
    has_bm25 = settings.bm25 is not None
    is_hybrid = has_bm25 if hybrid is None else hybrid
    most = limits.query
    fetched = _within("limit", limit, most)
    if question.reranked:
        usual = max(_CANDIDATES_PER_HIT * limit, _MIN_CANDIDATES)
        fetched = _within("candidates", candidates, most, usual)
    if limits.oversampling is not None and oversamples(settings) and not is_hybrid:
        passed = max(fetched, int(fetched * limits.oversampling))
        most = passed if most is None else min(most, passed)
    usual = max(_PREFETCH_PER_HIT * fetched, _MIN_PREFETCH)
    prefetch = _within("prefetch", question.prefetch, most, usual)
    if prefetch < fetched:
        raise ConfigError(
            f"`prefetch` is {prefetch}; it must be at least {fetched}, the number of hits to fetch"
        )
    if hybrid and not has_bm25:
        raise ConfigError(
            f"collection {collection!r} has no BM25; load it with "
            "`hybrid=True`, or search without `hybrid`"
        )
    where = question.query_filter
    if isinstance(where, Mapping):
        where = metadata_filter(where, settings.payloads)
    elif callable(where):
        where = where(settings.payloads)
    return Search(
        query=question.query,
        fetched=fetched,
        prefetch=prefetch,
        hybrid=is_hybrid,
        where=where,
    )


def oversamples(settings: CollectionSettings) -> bool:
    """Return True if a dense search reads quantised vectors and rescores those it finds."""
    return not isinstance(settings.prefix, int) and settings.quantization is not None


def _within(name: str, value: int | None, most: int | None, usual: int = 0) -> int:
    """Return a number of points that strict mode allows; `usual`, or less, if `value` is None."""
    if value is None:
        return usual if most is None else min(usual, most)
    if most is not None and value > most:
        raise ConfigError(
            f"`{name}` is {value}; the strict mode of the collection allows {most} here: lower it, "
            "or raise `max_query_limit` or `search_max_oversampling` of the collection"
        )
    return value

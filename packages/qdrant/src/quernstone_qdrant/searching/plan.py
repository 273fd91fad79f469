"""Check the arguments of a search against a collection, and fill in the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qdrant_client.models import Filter, HasIdCondition, Mmr

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import KEY_FIELD
from quernstone_qdrant.documents.paths import field_paths
from quernstone_qdrant.filters import metadata_filter
from quernstone_qdrant.searching.boosts import boost_formula
from quernstone_qdrant.searching.feedback import Feedback
from quernstone_qdrant.searching.options import Question, is_whole
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets.base import Limits, native_ids
from quernstone_qdrant.targets.requests import (
    RRF_K,
    FeedbackExample,
    FeedbackStage,
    FormulaStage,
    GroupStage,
    MmrStage,
)

_CANDIDATES_PER_HIT = 4
_MIN_CANDIDATES = 20
_PREFETCH_PER_HIT = 20
_MIN_PREFETCH = 200
_USUAL_DIVERSITY = 0.5
"""The diversity that Qdrant uses by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A question to one collection, with its arguments checked and the defaults filled in."""

    query: str
    fetched: int
    prefetch: int
    hybrid: bool
    where: Filter | None
    mmr: MmrStage | None
    groups: GroupStage | None
    formula: FormulaStage | None
    feedback: FeedbackStage | None


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
    _check_numbers(question)
    hybrid = question.hybrid
    if hybrid and settings.bm25 is None:
        raise ConfigError(
            f"collection {collection!r} has no BM25; load it with "
            "`hybrid=True`, or search without `hybrid`"
        )
    is_hybrid = settings.bm25 is not None if hybrid is None else hybrid
    groups = _groups(question, settings)
    most = best_most = limits.query
    if groups is not None and most is not None:  # a server counts the points of all groups
        name = "group_size" if question.per_document is None else "per_document"
        best_most = most // _within(name, groups.size, most)
    fetched = _within("limit", question.limit, best_most)
    if question.reranked:
        usual = max(_CANDIDATES_PER_HIT * question.limit, _MIN_CANDIDATES)
        fetched = _within("candidates", question.candidates, best_most, usual)
    if question.feedback is not None:
        fetched = _share(question.feedback, question.examples, fetched)
    mmr = None if question.diversity is None else _mmr(question.diversity, fetched, most)
    pool = fetched if mmr is None else mmr.candidates
    if limits.oversampling is not None and oversamples(settings) and not is_hybrid:
        passed = max(pool, int(pool * limits.oversampling))
        most = passed if most is None else min(most, passed)
    usual = max(_PREFETCH_PER_HIT * fetched, _MIN_PREFETCH, pool)
    prefetch = _within("prefetch", question.prefetch, most, usual)
    if prefetch < pool:
        raise ConfigError(
            f"`prefetch` is {prefetch}; it must be at least {pool}, the number of hits to fetch"
        )
    formula = None
    if question.boost is not None:
        if not (is_hybrid or settings.scores_are_cosines):
            raise ConfigError(
                f"`boost` needs cosines, and collection {collection!r} stores {settings.datatype}"
                " vectors, whose scores are distances: search with `hybrid`, or without `boost`"
            )
        best = 2 / RRF_K if is_hybrid else 1.0
        query = boost_formula(question.boost, settings.payloads, question.asked, best)
        formula = FormulaStage(query=query, candidates=prefetch)
    return Search(
        query=question.query,
        fetched=fetched,
        prefetch=prefetch,
        hybrid=is_hybrid,
        where=_where(question, settings),
        mmr=mmr,
        groups=groups,
        formula=formula,
        feedback=_feedback(question),
    )


def _check_numbers(question: Question) -> None:
    limit, candidates = question.limit, question.candidates
    for name in ("limit", "candidates", "prefetch", "group_size", "per_document"):
        value = getattr(question, name)
        if value is not None and not is_whole(value):
            raise ConfigError(f"`{name}` is {value!r}; it must be a whole number")
    for name in ("limit", "group_size", "per_document"):
        value = getattr(question, name)
        if value is not None and value < 1:
            raise ConfigError(f"`{name}` is {value}; it must be at least 1")
    if candidates is not None and candidates < limit:
        raise ConfigError(f"`candidates` is {candidates}; it must be at least `limit`, {limit}")
    if candidates is not None and not question.reranked:
        raise ConfigError(
            "`candidates` (--candidates) sets how many hits to rerank, but there is no reranker"
            ": pass one, or leave it out"
        )


def _mmr(given: float | Mmr, fetched: int, most: int | None) -> MmrStage:
    diversity = given.diversity if isinstance(given, Mmr) else given
    asked = given.candidates_limit if isinstance(given, Mmr) else None
    if diversity is None:
        diversity = _USUAL_DIVERSITY
    is_number = isinstance(diversity, (int, float)) and not isinstance(diversity, bool)
    if not is_number or not 0 <= diversity <= 1:
        raise ConfigError(f"`diversity` is {diversity!r}; it must be a number from 0 to 1")
    usual = max(_CANDIDATES_PER_HIT * fetched, _MIN_CANDIDATES)
    candidates = _within("candidates_limit", asked, most, usual)
    if candidates < fetched:
        raise ConfigError(
            f"`candidates_limit` is {candidates}; it must be at least {fetched}, the number of "
            "hits to choose"
        )
    return MmrStage(diversity=float(diversity), candidates=candidates)


def _groups(question: Question, settings: CollectionSettings) -> GroupStage | None:
    if question.per_document is not None:
        return GroupStage(path=KEY_FIELD, size=question.per_document)
    if question.group_by is None:
        return None
    path = settings.payloads.field(field_paths(question.group_by)[0])
    return GroupStage(path=path, size=question.group_size or 1)


def _share(
    feedback: Feedback, examples: tuple[FeedbackExample, ...] | None, candidates: int
) -> int:
    """Return how many of the candidates the first or the second search fetches."""
    if feedback.seeds >= candidates:
        raise ConfigError(
            f"`seeds` of `feedback` is {feedback.seeds}; it must be below the number of "
            f"candidates, {candidates}: raise `candidates`"
        )
    return feedback.seeds if examples is None else candidates - len(examples)


def _feedback(question: Question) -> FeedbackStage | None:
    given = question.feedback
    if given is None or not question.examples:
        return None
    return FeedbackStage(examples=question.examples, a=given.a, b=given.b, c=given.c)


def _where(question: Question, settings: CollectionSettings) -> Filter | None:
    """Return the filter, which also excludes the points that the reranker has already scored."""
    where = question.query_filter
    if isinstance(where, Mapping):
        where = metadata_filter(where, settings.payloads)
    elif callable(where):
        where = where(settings.payloads)
    if where is not None and not isinstance(where, Filter):
        raise ConfigError(
            f"`query_filter` has type {type(where).__name__}; pass metadata values, such as "
            '{"year": 1200}, or a `qdrant_client.models.Filter`'
        )
    if not question.examples:
        return where
    seen = HasIdCondition(has_id=native_ids([one.id for one in question.examples]))
    return Filter(must=[] if where is None else [where], must_not=[seen])


def oversamples(settings: CollectionSettings) -> bool:
    """Return True if a dense search reads quantized vectors and rescores those it finds."""
    return not isinstance(settings.prefix, int) and settings.quantization is not None


def _within(name: str, value: int | None, most: int | None, usual: int = 0) -> int:
    """Return `value` if strict mode allows it; if it is None, `usual` or the most allowed.

    Raises:
        ConfigError: `value` exceeds `most`, the limit of the collection.
    """
    if value is None:
        return usual if most is None else min(usual, most)
    if most is not None and value > most:
        raise ConfigError(
            f"`{name}` is {value}; the strict mode of the collection allows {most} here: lower it, "
            "or raise `max_query_limit` or `search_max_oversampling` of the collection"
        )
    return value

"""A collection as a searcher opened it: the target, settings and limits that belong together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any
from uuid import UUID

from qdrant_client.models import FieldCondition, Filter, HasIdCondition, MatchAny

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.documents.layouts import KEY_FIELD, NODE_FIELD, OWN_KEY, Layout
from quernstone_qdrant.errors import CollectionNotFoundError
from quernstone_qdrant.filters import FieldValue, metadata_filter
from quernstone_qdrant.provenance import Provenance, check_provenance
from quernstone_qdrant.settings import BM25, PREFIX, CollectionSettings
from quernstone_qdrant.targets import FoundPoint, SearchRequest, Target
from quernstone_qdrant.targets.base import Bm25Stage, Limits, PrefixStage

_CANDIDATES_PER_HIT = 4
_MIN_CANDIDATES = 20
_PREFETCH_PER_HIT = 20
_MIN_PREFETCH = 200
_PAGE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A chunk found by a search."""

    id: str
    """Id of the point."""
    key: str
    """Key of the document."""
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float
    """Cosine similarity of the full vectors of query and chunk, from -1 to 1."""
    fused_score: float | None = None
    """Sum of the reciprocal ranks in the dense and BM25 results; None without hybrid search."""
    retrieval_rank: int
    """Rank before reranking, from 1, by `fused_score` in hybrid search, else by `score`."""
    rerank_score: float | None = None
    """Probability that the reranker answers yes, from 0 to 1; None without a reranker."""
    payload: dict[str, Any] = field(default_factory=dict, repr=False)
    """The payload as it is stored, in the layout of the collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of a search; see `QdrantSearcher.search`."""

    query: str
    limit: int
    hybrid: bool | None
    query_filter: Filter | Mapping[str, FieldValue] | None
    candidates: int | None
    prefetch: int | None
    reranked: bool
    """True if a reranker orders the hits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A question to one collection, with its arguments checked and the defaults filled in."""

    query: str
    fetched: int
    prefetch: int
    hybrid: bool
    where: Filter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCollection:
    """One state of a collection. A search takes it once, so it never mixes two collections."""

    target: Target
    """The collection itself, even if it was opened by an alias."""
    provenance: Provenance
    limits: Limits
    checked: float
    """Time at which reading it began, by `time.monotonic`."""

    @classmethod
    def read(cls, named: Target, expected: Provenance, *, allow_mismatch: bool) -> OpenedCollection:
        """Read the collection that a name stands for now.

        Args:
            named: The collection by the name that the user gave, which may be an alias.
            expected: Provenance of the embedder.
            allow_mismatch: Accept a collection of another model.

        Raises:
            CollectionNotFoundError: The collection does not exist.
            ProvenanceError: It was created with another model.
            CollectionError: It does not record its model.
        """
        while True:
            now = time.monotonic()
            target = named.pinned()
            try:
                state = target.state()
            except CollectionNotFoundError:
                if named.pinned().collection == target.collection:
                    raise
                continue  # the alias was switched meanwhile, and the old collection deleted
            provenance = check_provenance(
                state, named.collection, expected, allow_mismatch=allow_mismatch
            )
            return cls(target=target, provenance=provenance, limits=state.limits, checked=now)

    @property
    def identity(self) -> tuple[str, str]:
        """Name and identity of the collection; another one differs in one of them."""
        return self.target.collection, self.provenance.identity

    def is_current(self, named: Target) -> bool:
        """Return True if a name still leads to this collection, as it was when it was opened.

        Args:
            named: The collection by the name that the user gave, which may be an alias.

        Raises:
            TargetError: The collection cannot be read.
        """
        places = [self.target]
        if named.collection != self.target.collection:
            places.append(named)
        try:
            return all(Provenance.read(place.state()) == self.provenance for place in places)
        except CollectionNotFoundError:
            return False

    @property
    def _settings(self) -> CollectionSettings:
        return self.provenance.settings

    @property
    def layout(self) -> Layout:
        """Shape of the payloads."""
        return self._settings.payloads

    @property
    def _oversamples(self) -> bool:
        """True if a dense search reads quantised vectors and rescores those it finds."""
        settings = self._settings
        return not isinstance(settings.prefix, int) and settings.quantization is not None

    def plan(self, question: Question) -> Search:
        """Check the arguments of a search and fill in the defaults.

        Raises:
            ConfigError: An argument is out of range, or the collection has no BM25.
        """
        limit, candidates, hybrid = question.limit, question.candidates, question.hybrid
        numbers = {"limit": limit, "candidates": candidates, "prefetch": question.prefetch}
        for name, value in numbers.items():
            if value is not None and not _is_whole(value):
                raise ConfigError(f"`{name}` is {value!r}; it must be a whole number")
        if limit < 1:
            raise ConfigError(f"`limit` is {limit}; it must be at least 1")
        if candidates is not None and candidates < limit:
            raise ConfigError(f"`candidates` is {candidates}; it must be at least `limit`, {limit}")
        has_bm25 = self._settings.bm25 is not None
        is_hybrid = has_bm25 if hybrid is None else hybrid
        most = self.limits.query
        fetched = _within("limit", limit, most)
        if question.reranked:
            usual = max(_CANDIDATES_PER_HIT * limit, _MIN_CANDIDATES)
            fetched = _within("candidates", candidates, most, usual)
        if self.limits.oversampling is not None and self._oversamples and not is_hybrid:
            passed = max(fetched, int(fetched * self.limits.oversampling))
            most = passed if most is None else min(most, passed)
        usual = max(_PREFETCH_PER_HIT * fetched, _MIN_PREFETCH)
        prefetch = _within("prefetch", question.prefetch, most, usual)
        if prefetch < fetched:
            raise ConfigError(
                f"`prefetch` is {prefetch}; it must be at least {fetched}, the number of "
                "hits to fetch"
            )
        if hybrid and not has_bm25:
            raise ConfigError(
                f"collection {self.target.collection!r} has no BM25; load it with "
                "`hybrid=True`, or search without `hybrid`"
            )
        where = question.query_filter
        if isinstance(where, Mapping):
            where = metadata_filter(where, self.layout)
        return Search(
            query=question.query,
            fetched=fetched,
            prefetch=prefetch,
            hybrid=is_hybrid,
            where=where,
        )

    def find(self, search: Search, vector: Float32Array) -> list[SearchHit]:
        """Return the hits of a search, best first.

        Args:
            search: A search that this collection planned.
            vector: The embedded query. Shape: (dimensions,)

        Raises:
            TargetError: Qdrant failed.
        """
        found = self.target.query(self._request(search, vector))
        return [self._hit(point, rank, vector, search) for rank, point in enumerate(found, start=1)]

    def point_ids(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of points; see `QdrantSearcher.point_ids`."""
        found: dict[str, list[tuple[int, str]]] = {each: [] for each in ids}
        named = list(found)
        page = min(_PAGE, self.limits.query or _PAGE)
        for start in range(0, len(named), _PAGE):
            for condition in self._conditions(named[start : start + _PAGE]):
                points = self.target.scroll(
                    [OWN_KEY], batch=page, where=Filter(must=[condition]), every_replica=False
                )
                for point in points:
                    own = point.payload.get(OWN_KEY) or {}
                    number = own.get("chunk", 0)
                    for name in {own.get("key"), own.get("node_id"), point.id}:
                        if name in found:
                            found[name].append((number, point.id))
        ordered = [point for points in found.values() for _, point in sorted(points)]
        return list(dict.fromkeys(ordered))

    def _conditions(self, ids: list[str]) -> Iterator[FieldCondition | HasIdCondition]:
        """Yield filters of which each uses one index, so that strict mode allows it."""
        yield FieldCondition(key=KEY_FIELD, match=MatchAny(any=ids))
        if NODE_FIELD in self._settings.key_fields():
            yield FieldCondition(key=NODE_FIELD, match=MatchAny(any=ids))
        points = [each for each in ids if _is_uuid(each)]
        if points:
            yield HasIdCondition(has_id=list(points))

    def _request(self, search: Search, vector: Float32Array) -> SearchRequest:
        settings = self._settings
        prefix = bm25 = oversampling = None
        if isinstance(settings.prefix, int):
            short = unit_prefix(vector, settings.prefix)
            prefix = PrefixStage(using=PREFIX, vector=short, limit=search.prefetch)
        elif self._oversamples:
            found = search.prefetch if search.hybrid else search.fetched
            oversampling = search.prefetch / found
        if search.hybrid:
            sparse = settings.bm25 == "sparse"
            bm25 = Bm25Stage(
                using=BM25 if sparse else settings.text_field,
                sparse=sparse,
                query=settings.bm25_text(search.query),
            )
        return SearchRequest(
            vector=settings.encode(vector),
            limit=search.fetched,
            using=settings.vector,
            where=search.where,
            oversampling=oversampling,
            prefix=prefix,
            bm25=bm25,
            depth=search.prefetch,
            with_vector=search.hybrid or not settings.scores_are_cosines,
        )

    def _hit(self, point: FoundPoint, rank: int, vector: Float32Array, search: Search) -> SearchHit:
        content = self.layout.read(point.payload)
        score = point.score
        if point.vector is not None:
            score = self._settings.cosine(vector, point.vector)
        return SearchHit(
            id=point.id,
            key=content.key,
            text=content.text,
            metadata=content.metadata,
            score=score,
            fused_score=point.score if search.hybrid else None,
            retrieval_rank=rank,
            payload=dict(point.payload),
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


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

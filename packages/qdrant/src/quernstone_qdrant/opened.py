"""A snapshot of a collection that a searcher opened: target, settings, embedder and limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from qdrant_client.models import FieldCondition, Filter, HasIdCondition, MatchAny

from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.documents.layouts import KEY_FIELD, NODE_FIELD, OWN_KEY, Layout
from quernstone_qdrant.embedder_choice import EmbedderChoice
from quernstone_qdrant.embedders import QueryEmbedder
from quernstone_qdrant.errors import CollectionNotFoundError, LimitError, TooLargeError
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import Question, Reading
from quernstone_qdrant.searching.plan import Search, oversamples, plan
from quernstone_qdrant.settings import BM25, PREFIX, CollectionSettings
from quernstone_qdrant.targets import FoundPoint, SearchRequest, Target
from quernstone_qdrant.targets.base import Limits
from quernstone_qdrant.targets.requests import Bm25Stage, PrefixStage

_PAGE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCollection:
    """One state of a collection. A search takes it once, so it never mixes two collections."""

    target: Target
    """The collection itself, even if it was opened by an alias."""
    provenance: Provenance
    embedder: QueryEmbedder
    """The embedder of its model."""
    limits: Limits
    close_count: int
    """`Target.close_count` before it was read."""
    checked: float
    """Time at which reading it began, by `time.monotonic`."""

    @classmethod
    def read(
        cls, named: Target, embedders: EmbedderChoice, *, allow_mismatch: bool
    ) -> OpenedCollection:
        """Read the collection that a name stands for now.

        Args:
            named: The collection by the name that the user gave, which may be an alias.
            embedders: The embedders to choose from.
            allow_mismatch: Accept a collection of another model.

        Raises:
            CollectionNotFoundError: The collection does not exist.
            ProvenanceError: It was created with another model.
            CollectionError: It does not record its model.
        """
        while True:
            now = time.monotonic()
            target = named.pinned()
            close_count = target.close_count
            try:
                state = target.state()
            except CollectionNotFoundError:
                if named.pinned().collection == target.collection:
                    raise
                continue  # the alias was switched meanwhile, and the old collection deleted
            provenance, embedder = embedders.of(
                state, named.collection, allow_mismatch=allow_mismatch
            )
            return cls(
                target=target,
                provenance=provenance,
                embedder=embedder,
                limits=state.limits,
                close_count=close_count,
                checked=now,
            )

    @property
    def identity(self) -> tuple[str, str, int]:
        """Name, identity and close count; any other collection differs in one of them."""
        return self.target.collection, self.provenance.identity, self.close_count

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
            return self.target.close_count == self.close_count and all(
                Provenance.read(place.state()) == self.provenance for place in places
            )
        except CollectionNotFoundError:
            return False

    @property
    def _settings(self) -> CollectionSettings:
        return self.provenance.settings

    @property
    def layout(self) -> Layout:
        """Shape of the payloads."""
        return self._settings.payloads

    def plan(self, question: Question) -> Search:
        """Check the arguments of a search and fill in the defaults.

        Raises:
            ConfigError: An argument is out of range, or the collection has no BM25.
        """
        return plan(question, self._settings, self.limits, self.target.collection)

    def find(
        self, searches: Sequence[Search], vectors: Sequence[Float32Array], reading: Reading
    ) -> list[list[SearchHit]]:
        """Return the hits of each search, best first; several searches are one request.

        Args:
            searches: Searches that this collection planned.
            vectors: The embedded query of each search. Shape of each: (dimensions,)
            reading: Which replicas answer, and until when.

        Raises:
            TargetError: Qdrant failed.
        """
        requests = [
            self._request(search, vector, reading)
            for search, vector in zip(searches, vectors, strict=True)
        ]
        found = self._query(requests)
        return [
            [
                self._hit(point, rank, vector, search)
                for rank, point in enumerate(self._best(points, search), start=1)
            ]
            for points, vector, search in zip(found, vectors, searches, strict=True)
        ]

    def _best(self, points: list[FoundPoint], search: Search) -> list[FoundPoint]:
        """Return the best points of all groups together."""
        if search.groups is None:
            return points
        is_distance = not (
            search.hybrid or search.formula or search.feedback or self._settings.scores_are_cosines
        )
        ordered = sorted(points, key=lambda point: point.score, reverse=not is_distance)
        return ordered[: search.fetched]

    def _query(self, requests: Sequence[SearchRequest]) -> list[list[FoundPoint]]:
        if len(requests) == 1:
            return [self.target.query(requests[0])]
        most = self.limits.searches or len(requests)
        if len(requests) > most:
            return [*self._query(requests[:most]), *self._query(requests[most:])]
        try:
            return self.target.query_many(requests)
        except (LimitError, TooLargeError):  # strict mode limits batches, and points per request
            half = len(requests) // 2
            return [*self._query(requests[:half]), *self._query(requests[half:])]

    def point_ids(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of points; see `QdrantSearcher.point_ids`."""
        found: dict[str, list[tuple[int, str]]] = {each: [] for each in ids}
        named = list(found)
        page = min(_PAGE, self.limits.query or _PAGE)
        size = min(_PAGE, self.limits.condition or _PAGE)
        for start in range(0, len(named), size):
            for condition in self._conditions(named[start : start + size]):
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
        """Yield one filter per index: strict mode refuses filters without an index."""
        yield FieldCondition(key=KEY_FIELD, match=MatchAny(any=ids))
        if NODE_FIELD in self._settings.key_fields():
            yield FieldCondition(key=NODE_FIELD, match=MatchAny(any=ids))
        points = [each for each in ids if _is_uuid(each)]
        if points:
            yield HasIdCondition(has_id=list(points))

    def _request(self, search: Search, vector: Float32Array, reading: Reading) -> SearchRequest:
        settings = self._settings
        prefix = bm25 = oversampling = None
        if isinstance(settings.prefix, int):
            short = unit_prefix(vector, settings.prefix)
            prefix = PrefixStage(using=PREFIX, vector=short, limit=search.prefetch)
        elif oversamples(settings):
            found = search.fetched if search.mmr is None else search.mmr.candidates
            if search.hybrid or search.formula:
                found = search.prefetch
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
            with_vector=bool(
                search.hybrid
                or search.formula
                or search.feedback
                or not settings.scores_are_cosines
            ),
            mmr=search.mmr,
            formula=search.formula,
            feedback=search.feedback,
            groups=search.groups,
            consistency=reading.consistency,
            timeout=reading.timeout,
        )

    def _hit(self, point: FoundPoint, rank: int, vector: Float32Array, search: Search) -> SearchHit:
        content = self.layout.read(point.payload)
        score, replaced = point.score, search.mmr or search.formula
        if point.vector is not None:
            score = self._settings.cosine(vector, point.vector)
        return SearchHit(
            id=point.id,
            key=content.key,
            text=content.text,
            metadata=content.metadata,
            score=score,
            fused_score=point.score if search.hybrid and not replaced else None,
            boosted_score=point.score if search.formula else None,
            group=point.group,
            retrieval_rank=rank,
            payload=dict(point.payload),
        )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True

"""Search a collection by meaning and by words, and rerank the best hits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, RankedDocument, unit_prefix
from quernstone_qdrant.documents.layouts import Layout, layout_of
from quernstone_qdrant.embedders import (
    LangChainEmbeddings,
    LlamaIndexEmbedding,
    QueryEmbedder,
    TextReranker,
    as_embedder,
    check_reranker,
)
from quernstone_qdrant.errors import LimitError
from quernstone_qdrant.filters import FieldValue, metadata_filter
from quernstone_qdrant.provenance import Provenance, check_provenance
from quernstone_qdrant.settings import BM25, PREFIX
from quernstone_qdrant.targets import FoundPoint, SearchRequest, Target, as_target
from quernstone_qdrant.targets.base import Bm25Stage, PrefixStage

_CANDIDATES_PER_HIT = 4
_MIN_CANDIDATES = 20
_PREFETCH_PER_HIT = 20
_MIN_PREFETCH = 200
_SECONDS_BETWEEN_CHECKS = 1.0


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
class _Search:
    """A validated search whose query is not embedded yet."""

    query: str
    fetched: int
    prefetch: int
    hybrid: bool
    where: Filter | None


class QdrantSearcher:
    """A searcher for a collection that a `QdrantLoader` filled.

    The collection records how it stores its points, so all presets and layouts are searched in the
    same way. A collection with a vector pair is searched in two stages. Hits on quantised vectors
    are rescored with the full vectors. With BM25, dense and BM25 results are combined by reciprocal
    rank fusion.

    A collection on a server is read again before a search if the last time was more than a second
    ago. A searcher then follows an alias that was switched to a collection of the same model, and
    refuses one of another model, or a collection that was created again by another model.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: An existing collection, created with the embedder's model.
        embedder: Usually a `quernstone.Embedder`; or an embedding object of LangChain or
            LlamaIndex (see `FrameworkEmbedder`).
        reranker: Usually a `quernstone.Reranker`; None keeps the order of the retrieval.
        allow_mismatch: Search even if the collection was created with another model.

    Raises:
        CollectionNotFoundError: The collection does not exist; the error lists those that do.
        ProvenanceError: The collection was created with another model, revision or vector size.
        CollectionError: The collection does not record the model that it was created with.
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: QueryEmbedder | LangChainEmbeddings | LlamaIndexEmbedding,
        reranker: TextReranker | None = None,
        *,
        allow_mismatch: bool = False,
    ) -> None:
        check_reranker(reranker)
        self._named = as_target(client, collection)
        self._embedder: QueryEmbedder = as_embedder(embedder)
        self._reranker = reranker
        self._allow_mismatch = allow_mismatch
        self._open()

    def _open(self) -> None:
        """Read the collection that the name stands for now, which may be an alias."""
        now = time.monotonic()
        target = self._named.pinned()
        state = target.state()
        collection = self._named.collection
        self._provenance = check_provenance(
            state,
            collection,
            Provenance.of(self._embedder, collection),
            allow_mismatch=self._allow_mismatch,
        )
        self._limits = state.limits
        self._settings = self._provenance.settings
        self._layout = layout_of(self._settings.layout)
        self._target = target
        self._checked = now  # only after success: a refused collection is refused again

    def _open_again(self) -> None:
        """Notice that the collection was replaced, or that its alias was switched."""
        is_server = self._named.kind == "server"  # others are opened by one process
        if is_server and time.monotonic() - self._checked > _SECONDS_BETWEEN_CHECKS:
            self._open()

    @property
    def provenance(self) -> Provenance:
        """The record of the model that the collection was created with."""
        return self._provenance

    @property
    def collection(self) -> str:
        """Name of the collection, as it was passed."""
        return self._named.collection

    @property
    def layout(self) -> Layout:
        """Shape of the payloads: `layout.field(name)` is the path of a metadata field."""
        return self._layout

    @property
    def embedder(self) -> QueryEmbedder:
        """The embedder of the queries."""
        return self._embedder

    def search(
        self,
        query: str,
        limit: int = 10,
        *,
        hybrid: bool | None = None,
        query_filter: Filter | Mapping[str, FieldValue] | None = None,
        candidates: int | None = None,
        prefetch: int | None = None,
        instruction: str | None = None,
        vector: Sequence[float] | Float32Array | None = None,
    ) -> list[SearchHit]:
        """Return the chunks that best match a query.

        Args:
            query: The text to search for.
            limit: Maximum number of hits.
            hybrid: Also search by words (BM25); None: if the collection has BM25.
            query_filter: Required metadata values, such as `{"year": 1200}`, or a Qdrant filter on
                payload fields.
            candidates: Number of hits to rerank; None: four times `limit`, at least 20. Has no
                effect without a reranker.
            prefetch: Number of points that each earlier stage passes on: the short vectors of a
                pair, quantised vectors, or the dense and BM25 parts of a hybrid search. None: 20
                times the number of hits to fetch, at least 200, or what the collection's strict
                mode allows. Larger values come closer to an
                exact search, and are slower.
            instruction: The search task, for the model; None: the default instructions of the
                embedder and the reranker.
            vector: A vector to search for instead of the query's, such as that of a hypothetical
                answer. BM25 and the reranker still read the query. Shape: (dimensions,)

        Returns:
            Hits, best first: by `rerank_score` with a reranker, else by `fused_score` or `score`.

        Raises:
            ConfigError: `limit` is below 1, `candidates` is below `limit`, `prefetch` is below the
                number of hits to fetch, `hybrid` is set and the collection has no BM25, or `vector`
                has another size.
            TargetError: Qdrant failed.
        """
        plan = partial(self._plan, query, limit, hybrid, query_filter, candidates, prefetch)
        self._open_again()
        plan()  # check the arguments first
        if vector is None:
            vector = self._embedder.embed_query(query, instruction)
        hits = self._find(plan, self._checked_vector(vector))
        if self._reranker is None or not hits:
            return hits
        texts = [hit.text for hit in hits]
        return _reranked(hits, self._reranker.rerank(query, texts, limit, instruction))

    async def asearch(
        self,
        query: str,
        limit: int = 10,
        *,
        hybrid: bool | None = None,
        query_filter: Filter | Mapping[str, FieldValue] | None = None,
        candidates: int | None = None,
        prefetch: int | None = None,
        instruction: str | None = None,
        vector: Sequence[float] | Float32Array | None = None,
    ) -> list[SearchHit]:
        """Like `search`, without blocking the event loop; concurrent calls share batches.

        A server is queried on another thread. An embedded client can only be used from the thread
        that created it, so it is queried on the calling thread, and does block the loop.
        """
        plan = partial(self._plan, query, limit, hybrid, query_filter, candidates, prefetch)
        if self._target.writers > 1:
            await asyncio.to_thread(self._open_again)
        plan()
        if vector is None:
            vector = await self._embedder.aembed_query(query, instruction)
        vector = self._checked_vector(vector)
        if self._target.writers > 1:
            hits = await asyncio.to_thread(self._find, plan, vector)
        else:
            hits = self._find(plan, vector)
        if self._reranker is None or not hits:
            return hits
        texts = [hit.text for hit in hits]
        return _reranked(hits, await self._reranker.arerank(query, texts, limit, instruction))

    def _plan(
        self,
        query: str,
        limit: int,
        hybrid: bool | None,
        query_filter: Filter | Mapping[str, FieldValue] | None,
        candidates: int | None,
        prefetch: int | None,
    ) -> _Search:
        """Check the arguments and fill in the defaults."""
        if limit < 1:
            raise ConfigError(f"`limit` is {limit}; it must be at least 1")
        if candidates is not None and candidates < limit:
            raise ConfigError(f"`candidates` is {candidates}; it must be at least `limit`, {limit}")
        has_bm25 = self._settings.bm25 is not None
        is_hybrid = has_bm25 if hybrid is None else hybrid
        most = self._limits.query
        fetched = _within("limit", limit, most)
        if self._reranker is not None:
            usual = max(_CANDIDATES_PER_HIT * limit, _MIN_CANDIDATES)
            fetched = _within("candidates", candidates, most, usual)
        if self._limits.oversampling is not None and self._oversamples and not is_hybrid:
            passed = max(fetched, int(fetched * self._limits.oversampling))
            most = passed if most is None else min(most, passed)
        usual = max(_PREFETCH_PER_HIT * fetched, _MIN_PREFETCH)
        prefetch = _within("prefetch", prefetch, most, usual)
        if prefetch < fetched:
            raise ConfigError(
                f"`prefetch` is {prefetch}; it must be at least {fetched}, the number of "
                "hits to fetch"
            )
        if hybrid and not has_bm25:
            raise ConfigError(
                f"collection {self._target.collection!r} has no BM25; load it with "
                "`hybrid=True`, or search without `hybrid`"
            )
        if isinstance(query_filter, Mapping):
            query_filter = metadata_filter(query_filter, self._layout)
        return _Search(
            query=query,
            fetched=fetched,
            prefetch=prefetch,
            hybrid=is_hybrid,
            where=query_filter,
        )

    def _checked_vector(self, given: Sequence[float] | Float32Array) -> Float32Array:
        """Return a query's vector with unit length."""
        vector = np.asarray(given, dtype=np.float32)
        size = self._provenance.dimensions
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise ConfigError(
                f"`vector` has shape {vector.shape}; it must be ({size},), all of it finite"
            )
        return unit_prefix(vector, size)

    @property
    def _oversamples(self) -> bool:
        """True if a dense search reads quantised vectors and rescores those it finds."""
        settings = self._settings
        return not isinstance(settings.prefix, int) and settings.quantization is not None

    def _find(self, plan: Callable[[], _Search], vector: Float32Array) -> list[SearchHit]:
        """Search, and once more if the collection's limits have changed."""
        search = plan()
        try:
            found = self._target.query(self._request(search, vector))
        except LimitError:
            self._limits = self._target.state().limits
            if plan() == search:
                raise
            search = plan()
            found = self._target.query(self._request(search, vector))
        return self._hits(found, vector, search)

    def _request(self, search: _Search, vector: Float32Array) -> SearchRequest:
        """Build the request to the target."""
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

    def _hits(
        self, found: Sequence[FoundPoint], vector: Float32Array, search: _Search
    ) -> list[SearchHit]:
        hits = []
        for rank, point in enumerate(found, start=1):
            content = self._layout.read(point.payload)
            score = point.score
            if point.vector is not None:
                score = self._settings.cosine(vector, point.vector)
            hits.append(
                SearchHit(
                    id=point.id,
                    key=content.key,
                    text=content.text,
                    metadata=content.metadata,
                    score=score,
                    fused_score=point.score if search.hybrid else None,
                    retrieval_rank=rank,
                    payload=dict(point.payload),
                )
            )
        return hits


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


def _reranked(hits: list[SearchHit], ranked: list[RankedDocument]) -> list[SearchHit]:
    return [replace(hits[found.index], rerank_score=found.score) for found in ranked]

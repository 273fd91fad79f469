"""Searches a collection by meaning and by words, and reranks the best hits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from qdrant_client import QdrantClient
from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, RankedDocument
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.documents.layouts import layout_of
from quernstone_qdrant.filters import FieldValue, metadata_filter
from quernstone_qdrant.provenance import Provenance, TextEmbedder, check_provenance
from quernstone_qdrant.settings import BM25, PREFIX, unit_prefix
from quernstone_qdrant.targets import FoundPoint, SearchRequest, Target, as_target
from quernstone_qdrant.targets.base import Bm25Stage, PrefixStage

_PER_HIT = 4
_FEWEST = 20
_PREFETCH_PER_HIT = 20
_FEWEST_PREFETCHED = 200


class QueryEmbedder(TextEmbedder, Protocol):
    """What the searcher needs of an embedder; `quernstone.Embedder` has it."""

    async def aembed_query(self, text: str, /, instruction: str | None = None) -> Float32Array:
        """Like `embed_query`, without blocking the event loop."""
        ...


class TextReranker(Protocol):
    """What the searcher needs of a reranker; `quernstone.Reranker` has it."""

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """Order documents, best first."""
        ...

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """Like `rerank`, without blocking the event loop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """One chunk that was found."""

    id: str
    """Of the point."""
    key: str
    """Of the document."""
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float
    """Cosine similarity of query and chunk, of their full vectors, -1 to 1."""
    fused_score: float | None = None
    """Hybrid: the sum of the reciprocal ranks by meaning and by words; else None."""
    retrieval_rank: int
    """Place before the reranking, from 1: in the order of `fused_score`, else of `score`."""
    rerank_score: float | None = None
    """P(yes), 0 to 1; None without a reranker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """A search whose query is not embedded yet."""

    query: str
    fetched: int
    prefetch: int
    hybrid: bool
    where: Filter | None


class QdrantSearcher:
    """Finds chunks in a collection that a `QdrantLoader` filled.

    The collection says how it stores its points, so all presets and layouts are searched alike: a
    pair in two stages, quantised vectors with their hits put in order by the full ones, and with
    BM25 by both orders, fused by reciprocal ranks.

    Args:
        client: Of any kind, or a target.
        collection: Must exist, and be made with the same model.
        embedder: Usually a `quernstone.Embedder`.
        reranker: Usually a `quernstone.Reranker`; None leaves the order as it was found.
        allow_mismatch: Search with another model than the one that made the collection.

    Raises:
        CollectionNotFoundError: The error names the collections that exist.
        ProvenanceError: The collection was made with another model, revision or size of vectors.
        CollectionError: Nothing is recorded about the model that made it.
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: QueryEmbedder,
        reranker: TextReranker | None = None,
        *,
        allow_mismatch: bool = False,
    ) -> None:
        self._target = as_target(client, collection)
        self._embedder = embedder
        self._reranker = reranker
        self._provenance = check_provenance(
            self._target.state(),
            collection,
            Provenance.of(embedder, collection),
            allow_mismatch=allow_mismatch,
        )
        self._settings = self._provenance.settings
        self._layout = layout_of(self._settings.layout)

    @property
    def provenance(self) -> Provenance:
        """What the collection records about its model."""
        return self._provenance

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
    ) -> list[SearchHit]:
        """Find the chunks that answer a query best.

        Args:
            query: What is asked.
            limit: Most hits to return.
            hybrid: Whether to search by words, too; None: if the collection has BM25.
            query_filter: Values that the metadata must have, such as `{"year": 1200}`, or Qdrant's
                own filter on payload fields.
            candidates: Hits that the reranker reads; None: four for each wanted one, at least 20.
                Without a reranker it has no effect.
            prefetch: Points that each stage before the last passes on: the short vectors of a pair,
                quantised vectors, the two orders of a hybrid search. None: 20 for each hit that
                is fetched, at least 200. The more, the nearer to an exact search, and the slower.
            instruction: What the search is for; None: the embedder's and the reranker's own.

        Returns:
            Best first: by `rerank_score` with a reranker, else by `fused_score` or `score`.

        Raises:
            ConfigError: `limit` is below 1, `candidates` below `limit`, or `prefetch` below what
                is fetched; or `hybrid` without BM25 in the collection.
            TargetError: Qdrant failed.
        """
        search = self._plan(query, limit, hybrid, query_filter, candidates, prefetch)
        vector = self._embedder.embed_query(query, instruction)
        hits = self._hits(self._target.query(self._request(search, vector)), vector, search)
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
    ) -> list[SearchHit]:
        """Like `search`, without blocking the event loop; concurrent callers share batches.

        A server is asked on another thread. A target that belongs to one thread is asked on this
        one, which must be the one that made it: there, the loop waits for the answer.
        """
        search = self._plan(query, limit, hybrid, query_filter, candidates, prefetch)
        vector = await self._embedder.aembed_query(query, instruction)
        request = self._request(search, vector)
        if self._target.writers > 1:
            found = await asyncio.to_thread(self._target.query, request)
        else:
            found = self._target.query(request)
        hits = self._hits(found, vector, search)
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
            raise ConfigError(f"`candidates` is {candidates}, fewer than `limit`, {limit}")
        fetched = limit
        if self._reranker is not None:
            fetched = candidates or max(_PER_HIT * limit, _FEWEST)
        if prefetch is None:
            prefetch = max(_PREFETCH_PER_HIT * fetched, _FEWEST_PREFETCHED)
        elif prefetch < fetched:
            raise ConfigError(f"`prefetch` is {prefetch}, fewer than the {fetched} to be fetched")
        has_words = self._settings.bm25 is not None
        if hybrid and not has_words:
            raise ConfigError(
                f"collection {self._target.collection!r} has no BM25; load it with `hybrid=True`"
            )
        if isinstance(query_filter, Mapping):
            query_filter = metadata_filter(query_filter, self._layout)
        return _Search(
            query=query,
            fetched=fetched,
            prefetch=prefetch,
            hybrid=has_words if hybrid is None else hybrid,
            where=query_filter,
        )

    def _request(self, search: _Search, vector: Float32Array) -> SearchRequest:
        """What the target is asked for."""
        settings = self._settings
        prefix = bm25 = oversampling = None
        if isinstance(settings.prefix, int):
            short = unit_prefix(vector, settings.prefix)
            prefix = PrefixStage(using=PREFIX, vector=short, limit=search.prefetch)
        elif settings.quantization is not None:
            found = search.prefetch if search.hybrid else search.fetched
            oversampling = search.prefetch / found
        if search.hybrid:
            sparse = settings.bm25 == "sparse"
            bm25 = Bm25Stage(
                using=BM25 if sparse else settings.text_field,
                sparse=sparse,
                query=Bm25Text(search.query, settings.language),
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
                )
            )
        return hits


def _reranked(hits: list[SearchHit], ranked: list[RankedDocument]) -> list[SearchHit]:
    return [replace(hits[found.index], rerank_score=found.score) for found in ranked]

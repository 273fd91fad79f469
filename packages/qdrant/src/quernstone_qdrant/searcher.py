"""Searches a collection by meaning, and puts the best hits in order with a reranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from qdrant_client import QdrantClient
from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import RankedDocument
from quernstone_qdrant.points import OWN_KEY
from quernstone_qdrant.provenance import Provenance, TextEmbedder, check_provenance
from quernstone_qdrant.targets import FoundPoint, SearchRequest, Target, as_target

_PER_HIT = 4
_FEWEST = 20


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
    """Cosine similarity of query and chunk, -1 to 1."""
    dense_rank: int
    """Place in the order of `score`, from 1."""
    rerank_score: float | None = None
    """P(yes), 0 to 1; None without a reranker."""


class QdrantSearcher:
    """Finds chunks in a collection that a `QdrantLoader` filled.

    Args:
        client: Of any kind, or a target.
        collection: Must exist, and be made with the same model.
        embedder: Usually a `quernstone.Embedder`.
        reranker: Usually a `quernstone.Reranker`; None leaves the dense order.

    Raises:
        CollectionNotFoundError: The error names the collections that exist.
        ProvenanceError: The collection was made with another model, revision or size of vectors.
        CollectionError: Nothing is recorded about the model that made it.
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: TextEmbedder,
        reranker: TextReranker | None = None,
    ) -> None:
        self._target = as_target(client, collection)
        self._embedder = embedder
        self._reranker = reranker
        self._provenance = check_provenance(
            self._target.state(), collection, Provenance.of(embedder, collection)
        )

    @property
    def provenance(self) -> Provenance:
        """What the collection records about its model."""
        return self._provenance

    def search(
        self,
        query: str,
        limit: int = 10,
        *,
        candidates: int | None = None,
        instruction: str | None = None,
        query_filter: Filter | None = None,
    ) -> list[SearchHit]:
        """Find the chunks that answer a query best.

        Args:
            query: What is asked.
            limit: Most hits to return.
            candidates: Hits that the reranker reads; None: four for each wanted one, at least 20.
                Without a reranker it has no effect.
            instruction: What the search is for; None: the embedder's and the reranker's own.
            query_filter: Qdrant's filter on payload fields, such as `metadata.source`.

        Returns:
            Best first: by `rerank_score` with a reranker, else by `score`.

        Raises:
            ConfigError: `limit` is below 1, or `candidates` below `limit`.
            TargetError: Qdrant failed.
        """
        if limit < 1:
            raise ConfigError(f"`limit` is {limit}; it must be at least 1")
        if candidates is not None and candidates < limit:
            raise ConfigError(f"`candidates` is {candidates}, fewer than `limit`, {limit}")
        fetched = limit
        if self._reranker is not None:
            fetched = candidates or max(_PER_HIT * limit, _FEWEST)
        vector = self._embedder.embed_query(query, instruction)
        request = SearchRequest(vector=vector, limit=fetched, where=query_filter)
        hits = [_hit(point, rank) for rank, point in enumerate(self._target.query(request), 1)]
        if self._reranker is None or not hits:
            return hits
        ranked = self._reranker.rerank(query, [hit.text for hit in hits], limit, instruction)
        return [replace(hits[found.index], rerank_score=found.score) for found in ranked]


def _hit(point: FoundPoint, rank: int) -> SearchHit:
    payload = point.payload
    own = payload.get(OWN_KEY) or {}
    return SearchHit(
        id=point.id,
        key=str(own.get("key", "")),
        text=str(payload.get("page_content", "")),
        metadata=dict(payload.get("metadata") or {}),
        score=point.score,
        dense_rank=rank,
    )

"""Search a collection by meaning and by words, and rerank the best hits."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Filter

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, RankedDocument, unit_prefix
from quernstone_qdrant.checks.fields import missing_fields
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.embedders import (
    LangChainEmbeddings,
    LlamaIndexEmbedding,
    QueryEmbedder,
    TextReranker,
    as_embedder,
    check_reranker,
)
from quernstone_qdrant.errors import TargetError, TransientError
from quernstone_qdrant.filters import FieldValue
from quernstone_qdrant.opened import OpenedCollection, Question, SearchHit
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.targets import Target, as_target

_SECONDS_BETWEEN_CHECKS = 1.0
_MOST_SEARCHES = 5
"""Searches for one question, each in a collection that was replaced during the last one."""


class QdrantSearcher:
    """A searcher for a collection that a `QdrantLoader` filled.

    The collection records how it stores its points, so all presets and layouts are searched in the
    same way. A collection with a vector pair is searched in two stages. Hits on quantised vectors
    are rescored with the full vectors. With BM25, dense and BM25 results are combined by reciprocal
    rank fusion.

    Hits are returned only if the collection that they came from still has the name and the model
    that it had when it was opened: each search reads its metadata once more, after the hits. A
    search follows an alias that was switched to a collection of the same model, and refuses one of
    another model, or a collection that was created again by another model. Each search uses one
    collection and its settings throughout. The limits of strict mode are read again once a second.

    Requests that fail temporarily are retried: after a lost connection, a status 429, or an error
    of the server (5xx). The default patience bridges a restart of a gateway or a short rate limit
    and still answers a waiting user; a batch job may want minutes, as a load has.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: An existing collection, created with the embedder's model.
        embedder: Usually a `quernstone.Embedder`; or an embedding object of LangChain or
            LlamaIndex (see `FrameworkEmbedder`).
        reranker: Usually a `quernstone.Reranker`; None keeps the order of the retrieval.
        allow_mismatch: Search even if the collection was created with another model.
        patience: Seconds in which to retry a request that fails temporarily; 0 never retries. A
            request itself takes at most the client's timeout.

    Raises:
        ConfigError: `patience` is negative.
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
        patience: float = 5.0,
    ) -> None:
        if patience < 0:
            raise ConfigError(f"`patience` is {patience}; it must be at least 0")
        check_reranker(reranker)
        self._named = as_target(client, collection)
        self._embedder: QueryEmbedder = as_embedder(embedder)
        self._reranker = reranker
        self._allow_mismatch = allow_mismatch
        self._retry = Retry(patience)
        self._replacing = threading.Lock()
        self._warned: set[str] = set()
        """Fields of filters that were looked for."""
        self._opened = self._read()

    def _read(self) -> OpenedCollection:
        """Read the collection that the name stands for now, which may be an alias."""
        named, allow_mismatch = self._named, self._allow_mismatch
        expected = Provenance.of(self._embedder, named.collection)
        return self._retry.call(
            lambda: OpenedCollection.read(named, expected, allow_mismatch=allow_mismatch)
        )

    def _reopened(self) -> OpenedCollection:
        """Read the collection again, and keep it for the next searches."""
        opened = self._read()
        with self._replacing:
            if opened.checked > self._opened.checked:  # unless another thread read it later
                self._opened = opened
        return opened

    def _current(self) -> OpenedCollection:
        """Return the collection; read it again if the last time was too long ago.

        An error leaves `_opened` as it is, so a refused collection is refused again.
        """
        opened = self._opened
        is_server = self._named.kind == "server"  # the only one with aliases and limits
        if is_server and time.monotonic() - opened.checked > _SECONDS_BETWEEN_CHECKS:
            return self._reopened()
        return opened

    @property
    def provenance(self) -> Provenance:
        """The record of the model that the collection was created with."""
        return self._opened.provenance

    @property
    def collection(self) -> str:
        """Name of the collection, as it was passed."""
        return self._named.collection

    @property
    def layout(self) -> Layout:
        """Shape of the payloads: `layout.field(name)` is the path of a metadata field."""
        return self._opened.layout

    @property
    def embedder(self) -> QueryEmbedder:
        """The embedder of the queries."""
        return self._embedder

    def point_ids(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of the points of documents or nodes, for other programs.

        LangChain's `get_by_ids` and LlamaIndex's `get_nodes` and `delete_nodes` take ids of points.

        Args:
            ids: Keys of documents, such as the `id` of a LangChain document or the `ref_doc_id` of
                a LlamaIndex node; ids of LlamaIndex nodes; or ids of points.

        Returns:
            The ids in the order of `ids`; the points of a document in the order of its chunks.
            Unknown ids have no point.

        Raises:
            TargetError: Qdrant failed.
        """
        return self._retry.call(partial(self._current().point_ids, list(ids)))

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
            TransientError: Qdrant failed temporarily, until `patience` ended.
            TargetError: Qdrant failed.
            ProvenanceError: Since the last search, another model's collection took its place.
        """
        question = self._question(query, limit, hybrid, query_filter, candidates, prefetch)
        opened = self._current()
        opened.plan(question)  # check the arguments first
        if vector is None:
            vector = self._embedder.embed_query(query, instruction)
        vector = _unit_vector(vector, opened.provenance.dimensions)
        hits = self._find(opened, question, vector)
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
        question = self._question(query, limit, hybrid, query_filter, candidates, prefetch)
        threaded = self._named.writers > 1
        opened = await asyncio.to_thread(self._current) if threaded else self._current()
        opened.plan(question)
        if vector is None:
            vector = await self._embedder.aembed_query(query, instruction)
        vector = _unit_vector(vector, opened.provenance.dimensions)
        if threaded:
            hits = await asyncio.to_thread(self._find, opened, question, vector)
        else:
            hits = self._find(opened, question, vector)
        if self._reranker is None or not hits:
            return hits
        texts = [hit.text for hit in hits]
        return _reranked(hits, await self._reranker.arerank(query, texts, limit, instruction))

    def _question(
        self,
        query: str,
        limit: int,
        hybrid: bool | None,
        query_filter: Filter | Mapping[str, FieldValue] | None,
        candidates: int | None,
        prefetch: int | None,
    ) -> Question:
        return Question(
            query=query,
            limit=limit,
            hybrid=hybrid,
            query_filter=query_filter,
            candidates=candidates,
            prefetch=prefetch,
            reranked=self._reranker is not None,
        )

    def _find(
        self, opened: OpenedCollection, question: Question, vector: Float32Array
    ) -> list[SearchHit]:
        """Search, and again if the collection was replaced or its limits have changed.

        A collection that has its identity after a search had it during the search, because the
        identity is random.
        """
        for _ in range(_MOST_SEARCHES):
            search = opened.plan(question)
            hits: list[SearchHit] = []
            failure: TargetError | None = None
            try:
                hits = self._retry.call(partial(opened.find, search, vector))
                if self._retry.call(partial(opened.is_current, self._named)):
                    if not hits and isinstance(question.query_filter, Mapping):
                        self._warn_of_missing(opened, question.query_filter)
                    return hits
            except TransientError:
                raise
            except TargetError as error:
                failure = error
            now = self._reopened()
            if now.identity == opened.identity:
                if failure is not None and now.plan(question) == search:
                    raise failure
                if failure is None and now.provenance == opened.provenance:
                    return hits
            opened = now
        raise TransientError(
            f"collection {self.collection!r} was replaced during each of {_MOST_SEARCHES} searches"
        )

    def _warn_of_missing(
        self, opened: OpenedCollection, query_filter: Mapping[str, FieldValue]
    ) -> None:
        """Name fields of a filter that no document has, each once."""
        names = [name for name in query_filter if name not in self._warned]
        self._warned.update(names)
        for name in missing_fields(opened.target, names, opened.provenance.settings.payloads):
            warnings.warn(
                f"no document of collection {self.collection!r} has the field {name!r} of the "
                "filter: check its spelling",
                stacklevel=4,
            )


def _unit_vector(given: Sequence[float] | Float32Array, size: int) -> Float32Array:
    """Return a query's vector with unit length."""
    vector = np.asarray(given, dtype=np.float32)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise ConfigError(
            f"`vector` has shape {vector.shape}; it must be ({size},), all of it finite"
        )
    return unit_prefix(vector, size)


def _reranked(hits: list[SearchHit], ranked: list[RankedDocument]) -> list[SearchHit]:
    return [replace(hits[found.index], rerank_score=found.score) for found in ranked]

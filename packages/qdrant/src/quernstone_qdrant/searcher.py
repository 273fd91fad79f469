"""Search a collection by meaning and by words, and rerank the best hits."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.checks.fields import missing_fields
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.embedder_choice import EmbedderChoice, EmbedderFor
from quernstone_qdrant.embedders import (
    LangChainEmbeddings,
    LlamaIndexEmbedding,
    QueryEmbedder,
    TextReranker,
    check_reranker,
)
from quernstone_qdrant.errors import TargetError, TransientError
from quernstone_qdrant.opened import OpenedCollection
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import (
    OneSearchOptions,
    Question,
    Reading,
    SearchOptions,
    embedded_texts,
    listed,
    make_question,
)
from quernstone_qdrant.searching.plan import Search
from quernstone_qdrant.searching.ranking import arerank_all, rerank_all
from quernstone_qdrant.searching.vectors import aembed, embed, unit_vector
from quernstone_qdrant.targets import Target, as_target
from quernstone_qdrant.targets.requests import Consistency

if TYPE_CHECKING:
    from typing_extensions import Unpack

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
    search follows an alias that was switched to a collection of the same model. It follows to
    another model with `embedder_for`, and otherwise refuses a collection of another model. Each
    search uses one collection and its settings throughout. The limits of strict mode are read again
    once a second.

    Requests that fail temporarily are retried: after a lost connection, a status 429, or an error
    of the server (5xx). The default patience bridges a restart of a gateway or a short rate limit
    and still answers a waiting user; a batch job may want minutes, as a load has.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: An existing collection, created with the embedder's model.
        embedder: Usually a `quernstone.Embedder`; or an embedding object of LangChain or
            LlamaIndex (see `FrameworkEmbedder`).
        reranker: Usually a `quernstone.Reranker`; None keeps the order of the retrieval.
        embedder_for: Returns the embedder of the model that a collection records, if it is not that
            of `embedder`. With it, a searcher follows a migration to another model, and its
            rollback: it is called by the first search after the switch, which waits for it. None:
            such a collection is refused.
        allow_mismatch: Search even if the collection was created with another model.
        patience: Seconds in which to retry a request that fails temporarily; 0 never retries. A
            request itself takes at most the client's timeout.
        consistency: Replicas that a server asks for hits: a number, or `"majority"`, `"quorum"` or
            `"all"`, as `ReadConsistencyType` of `qdrant_client`; None: one replica, which may miss
            the newest points.
        timeout: Seconds that a server may take for a request of hits; None: its own limit. A
            request that takes longer fails temporarily, so it is retried.

    Raises:
        ConfigError: `patience` is negative, `consistency` or `timeout` is not a value that Qdrant
            has, or the target is not a server and has neither.
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
        embedder_for: EmbedderFor | None = None,
        allow_mismatch: bool = False,
        patience: float = 5.0,
        consistency: Consistency | None = None,
        timeout: int | None = None,
    ) -> None:
        if patience < 0:
            raise ConfigError(f"`patience` is {patience}; it must be at least 0")
        check_reranker(reranker)
        self._named = as_target(client, collection)
        self._embedders = EmbedderChoice(embedder, embedder_for)
        self._reranker = reranker
        self._allow_mismatch = allow_mismatch
        self._retry = Retry(patience)
        self._reading = Reading(consistency=consistency, timeout=timeout)
        self._named.check_features(self._reading.features)
        self._replacing = threading.Lock()
        self._warned: set[str] = set()
        """Fields of filters that were looked for."""
        self._opened = self._read()

    def _read(self) -> OpenedCollection:
        """Read the collection that the name stands for now, which may be an alias."""
        named, embedders, allow_mismatch = self._named, self._embedders, self._allow_mismatch
        return self._retry.call(
            lambda: OpenedCollection.read(named, embedders, allow_mismatch=allow_mismatch)
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
        """The embedder of the queries, for the collection that was searched last."""
        return self._opened.embedder

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
        self, query: str, limit: int = 10, **options: Unpack[OneSearchOptions]
    ) -> list[SearchHit]:
        """Return the chunks that best match a query.

        Args:
            query: The text to search for.
            limit: Maximum number of hits.
            hybrid: Also search by words (BM25); None: if the collection has BM25.
            query_filter: Required metadata values, such as `{"year": 1200}`, or a Qdrant filter on
                payload fields, or a function that returns one for the layout of the payloads.
            candidates: Number of hits to rerank; None: four times `limit`, at least 20. Has no
                effect without a reranker.
            prefetch: Number of points that each earlier stage passes on: the short vectors of a
                pair, quantised vectors, or the dense and BM25 parts of a hybrid search. None: 20
                times the number of hits to fetch, at least 200, or what the collection's strict
                mode allows. Larger values come closer to an
                exact search, and are slower.
            instruction: The search task, for the model; None: the default instructions of the
                embedder and the reranker.
            vector: A vector to search for instead of the query's, computed by `embedder`. BM25 and
                the reranker still read the query. Shape: (dimensions,)
            hypothetical: Texts to embed instead of the query, such as hypothetical answers. The
                mean of their vectors is searched for; BM25 and the reranker read the query.

        Returns:
            Hits, best first: by `rerank_score` with a reranker, else by `fused_score` or `score`.

        Raises:
            ConfigError: `limit` is below 1, `candidates` is below `limit`, `prefetch` is below the
                number of hits to fetch, `hybrid` is set and the collection has no BM25, `vector`
                has another size, or both `vector` and `hypothetical` are set.
            TransientError: Qdrant failed temporarily, until `patience` ended.
            TargetError: Qdrant failed.
            ProvenanceError: Another model's collection took its place, and there is no embedder for
                it, or `vector` was given.
        """
        vector, texts = options.pop("vector", None), options.pop("hypothetical", None)
        return self._search_all([query], limit, options, vector, texts)[0]

    async def asearch(
        self, query: str, limit: int = 10, **options: Unpack[OneSearchOptions]
    ) -> list[SearchHit]:
        """Like `search`, without blocking the event loop; concurrent calls share batches.

        A server is queried on another thread. An embedded client can only be used from the thread
        that created it, so it is queried on the calling thread, and does block the loop.
        """
        vector, texts = options.pop("vector", None), options.pop("hypothetical", None)
        return (await self._asearch_all([query], limit, options, vector, texts))[0]

    def search_many(
        self, queries: Iterable[str], limit: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[SearchHit]]:
        """Search for several queries: they share batches of the models and one request.

        All of them find their hits in one state of the collection. If its strict mode does not
        allow so many searches in one request, they are sent in several.

        Args:
            queries: The texts to search for.
            limit: Maximum number of hits of each query.
            options: Those of `search` except `vector` and `hypothetical`, for all queries.

        Returns:
            The hits of each query, in the order of `queries`. See `search`, also for the errors.
        """
        return self._search_all(listed(queries), limit, options)

    async def asearch_many(
        self, queries: Iterable[str], limit: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[SearchHit]]:
        """Like `search_many`, without blocking the event loop. See `asearch`."""
        return await self._asearch_all(listed(queries), limit, options)

    def _search_all(
        self,
        queries: list[str],
        limit: int,
        options: SearchOptions,
        vector: Sequence[float] | Float32Array | None = None,
        hypothetical: Sequence[str] | None = None,
    ) -> list[list[SearchHit]]:
        questions = self._questions(queries, limit, options, vector, hypothetical)
        if not questions:
            return []
        opened = self._current()
        self._plan(opened, questions)  # check the arguments first
        vectors = self._vectors(opened, vector) or embed(opened.embedder, questions)
        found = self._find(opened, questions, vectors)
        if self._reranker is None:
            return found
        return rerank_all(self._reranker, questions, found)

    async def _asearch_all(
        self,
        queries: list[str],
        limit: int,
        options: SearchOptions,
        vector: Sequence[float] | Float32Array | None = None,
        hypothetical: Sequence[str] | None = None,
    ) -> list[list[SearchHit]]:
        questions = self._questions(queries, limit, options, vector, hypothetical)
        if not questions:
            return []
        threaded = self._named.writers > 1
        opened = await asyncio.to_thread(self._current) if threaded else self._current()
        self._plan(opened, questions)
        vectors = self._vectors(opened, vector) or await aembed(opened.embedder, questions)
        if threaded:
            found = await asyncio.to_thread(self._find, opened, questions, vectors)
        else:
            found = self._find(opened, questions, vectors)
        if self._reranker is None:
            return found
        return await arerank_all(self._reranker, questions, found)

    @staticmethod
    def _vectors(
        opened: OpenedCollection, given: Sequence[float] | Float32Array | None
    ) -> list[Float32Array]:
        """Return a given vector with unit length; nothing if there is none."""
        return [] if given is None else [unit_vector(given, opened.provenance.dimensions)]

    def _questions(
        self,
        queries: list[str],
        limit: int,
        options: SearchOptions,
        vector: Sequence[float] | Float32Array | None,
        hypothetical: Sequence[str] | None,
    ) -> list[Question]:
        texts: tuple[str, ...] | None = None if vector is None else ()
        if hypothetical is not None:
            texts = embedded_texts(hypothetical, vector)
        reranked = self._reranker is not None
        return [
            make_question(query, limit, embedded=texts, reranked=reranked, options=options)
            for query in queries
        ]

    def _plan(self, opened: OpenedCollection, questions: Sequence[Question]) -> list[Search]:
        """Check the arguments; return one search for each question."""
        opened.target.check_features(self._reading.features)
        return [opened.plan(question) for question in questions]

    def _find(
        self,
        opened: OpenedCollection,
        questions: Sequence[Question],
        vectors: Sequence[Float32Array],
    ) -> list[list[SearchHit]]:
        """Search, and again if the collection was replaced or its limits have changed.

        A collection that has its identity after a search had it during the search, because the
        identity is random.
        """
        for _ in range(_MOST_SEARCHES):
            searches = self._plan(opened, questions)
            found: list[list[SearchHit]] = []
            failure: TargetError | None = None
            try:
                find = partial(opened.find, searches, vectors, self._reading)
                found = self._retry.call(find)
                if self._retry.call(partial(opened.is_current, self._named)):
                    self._warn_of_missing(opened, questions, found)
                    return found
            except TransientError:
                raise
            except TargetError as error:
                failure = error
            now = self._reopened()
            if now.identity == opened.identity:
                if failure is not None and self._plan(now, questions) == searches:
                    raise failure
                if failure is None and now.provenance == opened.provenance:
                    return found
            if now.embedder is not opened.embedder:
                if not questions[0].embedded:
                    given = Provenance.of(opened.embedder, self.collection)
                    now.provenance.check(given, self.collection)
                vectors = embed(now.embedder, questions)
            opened = now
        raise TransientError(
            f"collection {self.collection!r} was replaced during each of {_MOST_SEARCHES} searches"
        )

    def _warn_of_missing(
        self,
        opened: OpenedCollection,
        questions: Sequence[Question],
        found: Sequence[Sequence[SearchHit]],
    ) -> None:
        """Name fields of a filter that no document has, each once."""
        where = questions[0].query_filter  # equal in all of them
        if not isinstance(where, Mapping) or all(found):
            return
        names = [name for name in where if name not in self._warned]
        self._warned.update(names)
        for name in missing_fields(opened.target, names, opened.provenance.settings.payloads):
            warnings.warn(
                f"no document of collection {self.collection!r} has the field {name!r} of the "
                "filter: check its spelling",
                stacklevel=5,
            )

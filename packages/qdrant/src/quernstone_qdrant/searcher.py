"""Search a collection by meaning and by words, and rerank the best hits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import Layout
from quernstone_qdrant.embedder_choice import EmbedderChoice, EmbedderFor
from quernstone_qdrant.embedders import (
    LangChainEmbeddings,
    LlamaIndexEmbedding,
    QueryEmbedder,
    TextReranker,
    check_reranker,
)
from quernstone_qdrant.errors import LimitError
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.searching.finding import MAX_SEARCHES, Finder
from quernstone_qdrant.searching.hits import SearchHit
from quernstone_qdrant.searching.options import (
    OneSearchOptions,
    Question,
    Reading,
    SearchOptions,
    check_many,
    embedded_texts,
    listed,
    make_question,
)
from quernstone_qdrant.searching.ranking import (
    arerank_all,
    merged_all,
    rerank_all,
    with_examples,
)
from quernstone_qdrant.searching.vectors import aembed, embed, unit_vector
from quernstone_qdrant.targets import Target, as_target
from quernstone_qdrant.targets.requests import Consistency

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from quernstone_qdrant.opened import OpenedCollection

P = ParamSpec("P")
T = TypeVar("T")


class QdrantSearcher:
    """A searcher for a collection that a `QdrantLoader` filled.

    The collection records how it stores its points, so all presets and layouts are searched in the
    same way. A collection with a vector pair is searched in two stages. Hits on quantized vectors
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
        self._reranker = reranker
        self._retry = Retry(patience)
        self._finder = Finder(
            self._named,
            EmbedderChoice(embedder, embedder_for),
            allow_mismatch=allow_mismatch,
            retry=self._retry,
            reading=Reading(consistency=consistency, timeout=timeout),
        )

    @property
    def provenance(self) -> Provenance:
        """The record of the model that the collection was created with."""
        return self._finder.opened.provenance

    @property
    def collection(self) -> str:
        """Name of the collection, as it was passed."""
        return self._named.collection

    @property
    def layout(self) -> Layout:
        """Shape of the payloads: `layout.field(name)` is the path of a metadata field."""
        return self._finder.opened.layout

    @property
    def embedder(self) -> QueryEmbedder:
        """The embedder of the queries, for the collection that was searched last."""
        return self._finder.opened.embedder

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
        wanted = list(ids)
        try:
            return self._retry.call(partial(self._finder.current().point_ids, wanted))
        except LimitError:  # the limits may have changed since they were read
            return self._retry.call(partial(self._finder.reopened().point_ids, wanted))

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
            candidates: Number of hits to rerank; None: four times `limit`, at least 20. An
                error without a reranker.
            prefetch: Number of points that each earlier stage passes on: the short vectors of a
                pair, quantized vectors, or the dense and BM25 parts of a hybrid search. None: 20
                times the number of hits to fetch, at least 200, or what the collection's strict
                mode allows. Larger values come closer to an exact search, and are slower.
            instruction: The search task, for the model; None: the default instructions of the
                embedder and the reranker.
            diversity: Choose hits by maximal marginal relevance (MMR): 0 by similarity alone, 1 by
                difference from the hits before; or a `qdrant_client.models.Mmr`, whose
                `candidates_limit` is the number of points to choose from (None: four times the
                number of hits to fetch, at least 20). In hybrid search, these are the best by
                `fused_score`. With a reranker, MMR chooses the hits that it reads.
            boost: `Recency`, `Popularity` or a list of them, which are added to the score; or a
                `qdrant_client.models.FormulaQuery`, whose fields are payload paths and whose
                `$score` is the cosine, or `fused_score`. The best `prefetch` points are ranked.
                With a reranker, the boosted score decides which hits it reads.
            feedback: Settings of relevance feedback: the reranker scores a few hits, and a second
                search, which follows these scores, finds the other candidates.
            group_by: Metadata field of strings or whole numbers. Each of its values has at most
                `group_size` hits. Documents without the field are not found.
            group_size: Largest number of hits of a value of `group_by`; None: 1.
            per_document: Largest number of hits of a document, so that a long one does not fill
                the list; None: no limit.
            vector: A vector to search for instead of the query's, computed by `embedder`. BM25 and
                the reranker still read the query. Shape: (dimensions,)
            hypothetical: Texts to embed instead of the query, such as hypothetical answers. The
                mean of their vectors is searched for; BM25 and the reranker read the query.

        Returns:
            Hits, best first: by `rerank_score` with a reranker, else by `boosted_score`,
            `fused_score` or `score`; with `diversity`, in the order in which MMR chose them.

        Raises:
            ConfigError: `limit` is below 1, `candidates` is below `limit`, `prefetch` is below the
                number of hits to fetch, `hybrid` is set and the collection has no BM25, `vector`
                has another size, an option is out of range, two options exclude each other, or the
                target or the version of the server lacks one.
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
            options: Those of `search`, for all queries, except `vector`, `hypothetical` and the
                three of groups, which Qdrant does not search for in batches.

        Returns:
            The hits of each query, in the order of `queries`. See `search`, also for the errors.
        """
        check_many(options)
        return self._search_all(listed(queries), limit, options)

    async def asearch_many(
        self, queries: Iterable[str], limit: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[SearchHit]]:
        """Like `search_many`, without blocking the event loop. See `asearch`."""
        check_many(options)
        return await self._asearch_all(listed(queries), limit, options)

    def _search_all(
        self,
        queries: list[str],
        limit: int,
        options: Mapping[str, Any],
        vector: Sequence[float] | Float32Array | None = None,
        hypothetical: Sequence[str] | None = None,
    ) -> list[list[SearchHit]]:
        questions = self._questions(queries, limit, options, vector, hypothetical)
        if not questions:
            return []
        finder, reranker = self._finder, self._reranker
        opened = finder.current()
        finder.plan(opened, questions)  # check the arguments first
        vectors: Sequence[Float32Array] = self._vectors(opened, vector)
        vectors = vectors or embed(opened.embedder, questions)
        for _ in range(MAX_SEARCHES):
            opened, vectors, found = finder.find(opened, questions, vectors)
            if reranker is None:
                return found
            if questions[0].feedback is None:
                return rerank_all(reranker, questions, found, limit)
            seeds = rerank_all(reranker, questions, found, None)
            again = with_examples(questions, seeds)
            opened, vectors, more = finder.find_once(opened, again, vectors)
            if more is not None:
                return merged_all(questions, seeds, rerank_all(reranker, questions, more, None))
        raise finder.replaced_repeatedly()

    async def _asearch_all(
        self,
        queries: list[str],
        limit: int,
        options: Mapping[str, Any],
        vector: Sequence[float] | Float32Array | None = None,
        hypothetical: Sequence[str] | None = None,
    ) -> list[list[SearchHit]]:
        questions = self._questions(queries, limit, options, vector, hypothetical)
        if not questions:
            return []
        finder, reranker, call = self._finder, self._reranker, self._call
        opened = await call(finder.current)
        await call(finder.plan, opened, questions)
        vectors: Sequence[Float32Array] = self._vectors(opened, vector)
        vectors = vectors or await aembed(opened.embedder, questions)
        for _ in range(MAX_SEARCHES):
            opened, vectors, found = await call(finder.find, opened, questions, vectors)
            if reranker is None:
                return found
            if questions[0].feedback is None:
                return await arerank_all(reranker, questions, found, limit)
            seeds = await arerank_all(reranker, questions, found, None)
            again = with_examples(questions, seeds)
            opened, vectors, more = await call(finder.find_once, opened, again, vectors)
            if more is not None:
                others = await arerank_all(reranker, questions, more, None)
                return merged_all(questions, seeds, others)
        raise finder.replaced_repeatedly()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call on another thread, unless only the creator's thread may use the target."""
        if self._named.writers > 1:
            return await asyncio.to_thread(function, *args, **kwargs)
        return function(*args, **kwargs)

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
        options: Mapping[str, Any],
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

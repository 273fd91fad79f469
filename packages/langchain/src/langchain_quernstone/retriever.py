"""Search of a Qdrant collection as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, field_validator
from typing_extensions import Self, override

from quernstone import ConfigError, Embedder, MissingExtraError, Reranker
from quernstone.frameworks.settings import Count, Whole, check_count, check_fraction

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

    from quernstone_qdrant import Feedback, QdrantSearcher, SearchHit
    from quernstone_qdrant.filters import FieldValue
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.searching.boosts import Boosts
    from quernstone_qdrant.targets import Target
else:
    # The extra `qdrant` may be missing, and pydantic resolves the annotations of fields.
    Boosts = Feedback = Filter = FieldValue = QdrantSearcher = Any

_SEARCHED = (
    "hybrid",
    "query_filter",
    "candidates",
    "prefetch",
    "instruction",
    "per_document",
    "group_by",
    "group_size",
    "boost",
    "feedback",
)
"""Settings that are options of `QdrantSearcher.search`."""
_ARGUMENTS = ("k", *_SEARCHED, "search_type", "lambda_mult", "fetch_k")
_COUNTS = ("k", "candidates", "prefetch", "per_document", "group_size", "fetch_k")


class QuernstoneRetriever(BaseRetriever):
    """Retriever of documents from a Qdrant collection that a `QdrantLoader` filled.

    It works with every preset and layout of a collection. If the collection has BM25 vectors, the
    search is hybrid: by vectors and by keywords. If there is a reranker, it reorders the best
    candidates. Each setting can also be passed to `invoke`, for one query.

    The metadata of a document gets these fields, which replace fields of the same name:
    `retrieval_score`, the cosine of query and document; `fused_score` in hybrid searches;
    `boosted_score` with `boost`; `relevance_score`, the probability from 0 to 1, with a reranker;
    `_key`, the key of the document in the collection; and, as in langchain-qdrant, `_id` and
    `_collection_name`.

    Needs `pip install "langchain-quernstone[qdrant]"`.

    Examples:
        >>> from langchain_quernstone import QuernstoneEmbeddings, QuernstoneRetriever
        >>> from qdrant_client import QdrantClient
        >>> from quernstone_qdrant import QdrantLoader
        >>> client, embeddings = QdrantClient(":memory:"), QuernstoneEmbeddings(model="tiny")
        >>> _ = QdrantLoader(client, "notes", embeddings).load(["a hand mill", "it rains"])
        >>> retriever = QuernstoneRetriever.from_collection(client, "notes", embeddings, k=1)
        >>> retriever.invoke("grinding grain")[0].page_content
        'a hand mill'
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    searcher: QdrantSearcher
    """The searcher, with its embedder and reranker."""
    k: Whole = Field(default=4, ge=1)
    """Maximum number of documents."""
    hybrid: bool | None = None
    """Also search by keywords (BM25); None does so if the collection has BM25 vectors."""
    query_filter: Filter | Mapping[str, FieldValue] | None = None
    """Metadata values that documents must have, such as `{"year": 1200}`, or a Qdrant filter on
    payload fields."""
    candidates: Count = Field(default=None, ge=1)
    """Number of hits that the reranker reads; None is four times `k`, at least 20."""
    prefetch: Count = Field(default=None, ge=1)
    """Number of points that each earlier stage of a search passes on; see `QdrantSearcher`."""
    instruction: str | None = None
    """Instruction for the embedding model and the reranker; None uses their own."""
    search_type: Literal["similarity", "mmr"] = "similarity"
    """`mmr` chooses documents that differ (maximal marginal relevance)."""
    lambda_mult: float | None = Field(default=None, ge=0, le=1)
    """For `mmr`: 1 chooses by similarity alone, 0 by difference alone; None is 0.5."""
    fetch_k: Count = Field(default=None, ge=1)
    """For `mmr`: number of points to choose from; None is four times as many as are chosen, at
    least 20."""
    per_document: Count = Field(default=None, ge=1)
    """Maximum number of chunks of one source document; None sets no limit."""
    group_by: str | None = None
    """Metadata field to group by: at most `group_size` documents are found for each value."""
    group_size: Count = Field(default=None, ge=1)
    """Maximum number of documents for each value of `group_by`; None is 1."""
    boost: Boosts | None = None
    """`Recency`, `Popularity`, a list of them, or a formula of Qdrant; see `QdrantSearcher`."""
    feedback: Feedback | None = None
    """Settings of relevance feedback by the reranker; see `QdrantSearcher`."""

    @field_validator("searcher", mode="before")
    @classmethod
    def _check_searcher(cls, value: object) -> object:
        if not isinstance(value, _searcher_class()):
            message = f"expected a `quernstone_qdrant.QdrantSearcher`, got `{type(value).__name__}`"
            raise ValueError(message)
        return value

    @classmethod
    def from_collection(
        cls,
        client: QdrantClient | Target,
        collection: str,
        embeddings: Embeddings | Embedder,
        reranker: Reranker | None = None,
        *,
        embedder_for: Callable[[Provenance], Embeddings | Embedder] | None = None,
        allow_mismatch: bool = False,
        **settings: Any,
    ) -> Self:
        """Open a collection.

        Args:
            client: A Qdrant client (remote or embedded) or a target.
            collection: An existing collection, created with the model of `embeddings`.
            embeddings: Usually `QuernstoneEmbeddings`.
            reranker: Usually a `quernstone.Reranker`, or the property `reranker` of a
                `QuernstoneReranker`; None keeps the order of the retrieval.
            embedder_for: Function that returns the embedder after a migration to another model;
                see `QdrantSearcher`.
            allow_mismatch: Search even if the collection was created with another model.
            **settings: Fields of this class.

        Raises:
            MissingExtraError: quernstone-qdrant is not installed.
            CollectionNotFoundError: The collection does not exist.
            ProvenanceError: The collection was created with another model.
        """
        searcher = _searcher_class()(
            client,
            collection,
            embeddings,
            reranker,
            embedder_for=embedder_for,
            allow_mismatch=allow_mismatch,
        )
        return cls(searcher=searcher, **settings)

    @override
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changes: Any
    ) -> list[Document]:
        return self._documents(self.searcher.search(query, **self._arguments(changes)))

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **changes: Any
    ) -> list[Document]:
        return self._documents(await self.searcher.asearch(query, **self._arguments(changes)))

    def _arguments(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a search: the settings, changed for one query."""
        for name in changes:
            if name not in _ARGUMENTS:
                known = ", ".join(_ARGUMENTS)
                raise ConfigError(f"`{name}` is unknown; a query can change {known}")
        chosen = {name: changes.get(name, getattr(self, name)) for name in _ARGUMENTS}
        for name in _COUNTS:
            if name == "k" or chosen[name] is not None:
                chosen[name] = check_count(name, chosen[name])
        options = {name: chosen[name] for name in _SEARCHED}
        return {"limit": chosen["k"], "diversity": _diversity(chosen), **options}

    def _documents(self, hits: list[SearchHit]) -> list[Document]:
        return [
            Document(hit.text, id=hit.id, metadata={**hit.metadata, **self._scores(hit)})
            for hit in hits
        ]

    def _scores(self, hit: SearchHit) -> dict[str, Any]:
        scores = {
            "retrieval_score": hit.score,
            "fused_score": hit.fused_score,
            "boosted_score": hit.boosted_score,
            "relevance_score": hit.rerank_score,
        }
        return {
            **{name: float(score) for name, score in scores.items() if score is not None},
            "_key": hit.key,
            "_id": hit.id,
            "_collection_name": self.searcher.collection,
        }


def _diversity(chosen: Mapping[str, Any]) -> Any:
    """Convert LangChain's three MMR arguments to the option `diversity` of a search."""
    kind = chosen["search_type"]
    if kind == "similarity":
        for name in ("lambda_mult", "fetch_k"):
            if chosen[name] is not None:
                raise ConfigError(f"`{name}` needs `search_type='mmr'`")
        return None
    if kind != "mmr":
        raise ConfigError(f"`search_type` is {kind!r}; it must be 'similarity' or 'mmr'")
    weight = check_fraction("lambda_mult", chosen["lambda_mult"])
    from qdrant_client.models import Mmr  # noqa: PLC0415 - an extra

    return Mmr(diversity=None if weight is None else 1 - weight, candidates_limit=chosen["fetch_k"])


def _searcher_class() -> type[QdrantSearcher]:
    try:
        from quernstone_qdrant import QdrantSearcher  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quernstone_qdrant", "qdrant", "langchain-quernstone") from error
    return QdrantSearcher

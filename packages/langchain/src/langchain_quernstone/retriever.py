"""Search of a Qdrant collection as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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
from quernstone.frameworks.settings import Count, Whole

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

    from quernstone_qdrant import QdrantSearcher, SearchHit
    from quernstone_qdrant.filters import FieldValue
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.targets import Target
else:
    # The extra `qdrant` may be missing, and pydantic resolves the annotations of fields.
    Filter = FieldValue = QdrantSearcher = Any

_ARGUMENTS = ("k", "hybrid", "query_filter", "candidates", "prefetch", "instruction")


class QuernstoneRetriever(BaseRetriever):
    """Retrieve documents from a Qdrant collection that a `QdrantLoader` filled.

    All presets and layouts of collections are searched in the same way: a pair of vectors in two
    stages, a collection with BM25 by meaning and by words, and with a reranker the best candidates
    are reranked. Each setting can also be passed to `invoke`, for one query.

    The metadata of a document gets these fields, which replace fields of the same name:
    `retrieval_score`, the cosine of query and document; `fused_score` in hybrid searches;
    `relevance_score`, the probability from 0 to 1, with a reranker; `_key`, the key of the document
    in the collection; and, as in langchain-qdrant, `_id` and `_collection_name`.

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
    """Also search by words (BM25); None: if the collection has BM25."""
    query_filter: Filter | Mapping[str, FieldValue] | None = None
    """Required metadata values, such as `{"year": 1200}`, or a Qdrant filter on payload fields."""
    candidates: Count = Field(default=None, ge=1)
    """Number of hits to rerank; None: four times `k`, at least 20."""
    prefetch: Count = Field(default=None, ge=1)
    """Number of points that each earlier stage of a search passes on; see `QdrantSearcher`."""
    instruction: str | None = None
    """The search task, for the models; None: their own."""

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
            embedder_for: Returns the embedder after a migration to another model; see
                `QdrantSearcher`.
            allow_mismatch: Search even if the collection was created with another model.
            **settings: Fields of this class.

        Raises:
            MissingExtraError: quernstone-qdrant is not installed.
            CollectionNotFoundError: The collection does not exist.
            ProvenanceError: It was created with another model.
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
        return {"limit": chosen.pop("k"), **chosen}

    def _documents(self, hits: list[SearchHit]) -> list[Document]:
        return [
            Document(hit.text, id=hit.id, metadata={**hit.metadata, **self._scores(hit)})
            for hit in hits
        ]

    def _scores(self, hit: SearchHit) -> dict[str, Any]:
        scores = {
            "retrieval_score": hit.score,
            "fused_score": hit.fused_score,
            "relevance_score": hit.rerank_score,
        }
        return {
            **{name: float(score) for name, score in scores.items() if score is not None},
            "_key": hit.key,
            "_id": hit.id,
            "_collection_name": self.searcher.collection,
        }


def _searcher_class() -> type[QdrantSearcher]:
    try:
        from quernstone_qdrant import QdrantSearcher  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quernstone_qdrant", "qdrant", "langchain-quernstone") from error
    return QdrantSearcher

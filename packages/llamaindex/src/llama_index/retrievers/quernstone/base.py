"""Search of a Qdrant collection as a LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import (
    BaseNode,
    IndexNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from typing_extensions import Self

from quernstone import ConfigError, Embedder, MissingExtraError, Reranker
from quernstone.frameworks.settings import check_count, check_fraction

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

    from quernstone_qdrant import Feedback, QdrantSearcher, SearchHit
    from quernstone_qdrant.filters import FieldValue
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.searching.boosts import Boosts
    from quernstone_qdrant.searching.options import SearchFilter
    from quernstone_qdrant.targets import Target

_USUAL_DIVERSITY = 0.5


class QuernstoneRetriever(BaseRetriever):
    """Retriever of nodes from a Qdrant collection that a `QdrantLoader` filled.

    It works with every preset and layout of a collection. If the collection has BM25 vectors, the
    search is hybrid: by vectors and by keywords. If there is a reranker, it reorders the best
    candidates. Nodes come back as they were loaded.

    The score of a node is the probability of relevance if there is a reranker, else the score with
    boosts, else the reciprocal rank score of a hybrid search, else the cosine of query and text.

    If a `QueryBundle` has an `embedding` or `custom_embedding_strs` (HyDE), the vector search uses
    these. BM25 and the reranker read its `query_str`.

    Needs `pip install "llama-index-quernstone[qdrant]"`.

    Args:
        searcher: The searcher, with its embedder and reranker.
        similarity_top_k: Maximum number of nodes.
        hybrid: Also search by keywords (BM25); None does so if the collection has BM25 vectors.
        filters: LlamaIndex's `MetadataFilters`; metadata values that nodes must have, such as
            `{"year": 1200}`; or a Qdrant filter on payload fields.
        candidates: Number of hits that the reranker reads; None is four times `similarity_top_k`,
            at least 20.
        prefetch: Number of points that each earlier stage of a search passes on; see
            `QdrantSearcher`.
        instruction: Instruction for the embedding model and the reranker; None uses their own.
        vector_store_query_mode: `default`, or `mmr` to choose nodes that differ (maximal marginal
            relevance); `hybrid` requires BM25, as `hybrid=True` does.
        mmr_threshold: For `mmr`: 1 chooses by similarity alone, 0 by difference alone; None is 0.5.
        per_document: Maximum number of nodes of one source document; None sets no limit.
        group_by: Metadata field to group by: at most `group_size` nodes are found for each value.
        group_size: Maximum number of nodes for each value of `group_by`; None is 1.
        boost: `Recency`, `Popularity`, a list of them, or a formula of Qdrant; see
            `QdrantSearcher`.
        feedback: Settings of relevance feedback by the reranker; see `QdrantSearcher`.
        callback_manager: Manager whose handlers receive the event `RETRIEVE`.
        object_map: Objects of `IndexNode`s by id, as in LlamaIndex's own retrievers.
        objects: `IndexNode`s with objects.
        verbose: Print which objects are searched.

    Raises:
        ConfigError: An argument has the wrong type or is out of range.
        MissingExtraError: quernstone-qdrant is not installed.

    Examples:
        >>> from llama_index.embeddings.quernstone import QuernstoneEmbedding
        >>> from llama_index.retrievers.quernstone import QuernstoneRetriever
        >>> from qdrant_client import QdrantClient
        >>> from quernstone_qdrant import QdrantLoader
        >>> client, embed_model = QdrantClient(":memory:"), QuernstoneEmbedding(model_name="tiny")
        >>> _ = QdrantLoader(client, "notes", embed_model).load(["a hand mill", "it rains"])
        >>> retriever = QuernstoneRetriever.from_collection(client, "notes", embed_model)
        >>> retriever.retrieve("grinding grain")[0].text
        'a hand mill'
    """

    def __init__(
        self,
        searcher: QdrantSearcher,
        *,
        similarity_top_k: int = 2,
        hybrid: bool | None = None,
        filters: MetadataFilters | Filter | Mapping[str, FieldValue] | None = None,
        candidates: int | None = None,
        prefetch: int | None = None,
        instruction: str | None = None,
        vector_store_query_mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        mmr_threshold: float | None = None,
        per_document: int | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        boost: Boosts | None = None,
        feedback: Feedback | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        if not isinstance(searcher, _searcher_class()):
            raise ConfigError(
                "`searcher` must be a `quernstone_qdrant.QdrantSearcher`, not "
                f"`{type(searcher).__name__}`"
            )
        super().__init__(callback_manager, object_map, objects, verbose)
        self._searcher = searcher
        mode = _mode(vector_store_query_mode, mmr_threshold, hybrid)
        counts = {
            "candidates": candidates,
            "prefetch": prefetch,
            "per_document": per_document,
            "group_size": group_size,
        }
        self._arguments: dict[str, Any] = {
            "limit": check_count("similarity_top_k", similarity_top_k),
            "hybrid": True if mode == VectorStoreQueryMode.HYBRID else hybrid,
            "query_filter": _qdrant_filter(filters, searcher),
            "instruction": instruction,
            "diversity": _diversity(mmr_threshold) if mode == VectorStoreQueryMode.MMR else None,
            "group_by": group_by,
            "boost": boost,
            "feedback": feedback,
            **{
                name: None if value is None else check_count(name, value)
                for name, value in counts.items()
            },
        }

    @classmethod
    def from_collection(
        cls,
        client: QdrantClient | Target,
        collection: str,
        embed_model: BaseEmbedding | Embedder,
        reranker: Reranker | None = None,
        *,
        embedder_for: Callable[[Provenance], BaseEmbedding | Embedder] | None = None,
        allow_mismatch: bool = False,
        **settings: Any,
    ) -> Self:
        """Open a collection.

        Args:
            client: A Qdrant client (remote or embedded) or a target.
            collection: An existing collection, created with the model of `embed_model`.
            embed_model: Usually `QuernstoneEmbedding`.
            reranker: Usually a `quernstone.Reranker`, or the property `reranker` of a
                `QuernstoneRerank`; None keeps the order of the retrieval.
            embedder_for: Function that returns the embedder after a migration to another model;
                see `QdrantSearcher`.
            allow_mismatch: Search even if the collection was created with another model.
            **settings: Arguments of this class.

        Raises:
            MissingExtraError: quernstone-qdrant is not installed.
            CollectionNotFoundError: The collection does not exist.
            ProvenanceError: The collection was created with another model.
        """
        searcher = _searcher_class()(
            client,
            collection,
            embed_model,
            reranker,
            embedder_for=embedder_for,
            allow_mismatch=allow_mismatch,
        )
        return cls(searcher, **settings)

    @property
    def searcher(self) -> QdrantSearcher:
        """The searcher, with its embedder and reranker."""
        return self._searcher

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        _refuse_images(query_bundle)
        hits = self._searcher.search(
            query_bundle.query_str, **_embedded(query_bundle), **self._arguments
        )
        return [_scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        _refuse_images(query_bundle)
        hits = await self._searcher.asearch(
            query_bundle.query_str, **_embedded(query_bundle), **self._arguments
        )
        return [_scored(hit) for hit in hits]


def _mode(
    given: VectorStoreQueryMode | str, threshold: float | None, hybrid: bool | None
) -> VectorStoreQueryMode:
    """Return the query mode; refuse unknown modes and settings that the mode would ignore."""
    known = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.MMR)
    found = next((mode for mode in known if mode == given), None)
    if found is None:
        names = ", ".join(mode.value for mode in known)
        raise ConfigError(f"`vector_store_query_mode` is {given!r}; it must be one of {names}")
    if found == VectorStoreQueryMode.HYBRID and hybrid is False:
        raise ConfigError(
            "`vector_store_query_mode='hybrid'` and `hybrid=False` exclude each other: pass one"
        )
    if threshold is not None and found != VectorStoreQueryMode.MMR:
        raise ConfigError("`mmr_threshold` needs `vector_store_query_mode='mmr'`")
    return found


def _diversity(threshold: float | None) -> float:
    similarity = check_fraction("mmr_threshold", threshold)
    return _USUAL_DIVERSITY if similarity is None else 1 - similarity


def _searcher_class() -> type[QdrantSearcher]:
    try:
        from quernstone_qdrant import QdrantSearcher  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("quernstone_qdrant", "qdrant", "llama-index-quernstone") from error
    return QdrantSearcher


def _qdrant_filter(
    filters: MetadataFilters | Filter | Mapping[str, FieldValue] | None, searcher: QdrantSearcher
) -> SearchFilter:
    """Return the filter of all searches, as a function of the layout, which a migration may change.

    A filter that is not LlamaIndex's is returned unchanged.
    """
    if not isinstance(filters, MetadataFilters):
        return filters
    from llama_index.retrievers.quernstone.filters import to_qdrant  # noqa: PLC0415 - an extra

    to_qdrant(filters, searcher.layout)  # raise the errors of the filters now
    return partial(to_qdrant, filters)


def _refuse_images(query: QueryBundle) -> None:
    if query.image_path is not None:
        raise ConfigError(
            f"the query has an image, {query.image_path!r}, but only text can be searched for: "
            "pass a `QueryBundle` without `image_path`"
        )


def _embedded(query: QueryBundle) -> dict[str, Any]:
    """Return the vector or the texts to search with in place of the query's own vector."""
    if query.embedding is not None:
        return {"vector": query.embedding}
    return {"hypothetical": query.custom_embedding_strs or None}


def _scored(hit: SearchHit) -> NodeWithScore:
    scores = (hit.rerank_score, hit.boosted_score, hit.fused_score, hit.score)
    best = next(score for score in scores if score is not None)
    return NodeWithScore(node=_node(hit), score=float(best))


def _node(hit: SearchHit) -> BaseNode:
    """Return the node of a hit; if its layout does not store nodes, build one from the text."""
    if "_node_content" in hit.payload:
        return metadata_dict_to_node(hit.payload)
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.key)} if hit.key else {}
    return TextNode(id_=hit.id, text=hit.text, metadata=hit.metadata, relationships=source)

"""Every public name of llama-index-quernstone, as a user with a strict type checker writes it."""

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters
from qdrant_client import QdrantClient

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.embeddings.quernstone.testing import EmbeddingTests
from llama_index.postprocessor.quernstone import QuernstoneRerank
from llama_index.postprocessor.quernstone.testing import RerankTests
from llama_index.retrievers.quernstone import QuernstoneRetriever
from quernstone import PairTemplate, RemoteOptions
from quernstone_qdrant import QdrantLoader, QdrantSearcher


async def embed(texts: list[str]) -> list[Embedding]:
    model = QuernstoneEmbedding(
        model_name="tiny",
        engine="torch",
        device="cpu",
        dtype="float32",
        dimensions=64,
        instruction="Find the tool",
        max_length=512,
        truncate=False,
        max_batch_tokens=None,
        deterministic=True,
        revision="main",
        embed_batch_size=2048,
        num_workers=2,
        engine_options={"backend": "onnx"},
        callback_manager=CallbackManager([]),
    )
    interface: BaseEmbedding = QuernstoneEmbedding.from_dict(model.to_dict())
    IngestionPipeline(transformations=[model])
    payload: dict[str, Any] = model.to_payload()
    fingerprint: str = model.fingerprint
    query: list[float] = model.get_query_embedding(f"{fingerprint} {payload}")
    return [
        query,
        model.get_text_embedding("t"),
        await model.aget_query_embedding("q"),
        await model.aget_text_embedding("t"),
        *model.get_text_embedding_batch(texts),
        *await interface.aget_text_embedding_batch(texts),
    ]


async def rerank(nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
    postprocessor = QuernstoneRerank(
        model="tiny",
        engine="transformers",
        device="cpu",
        dtype="bfloat16",
        instruction=None,
        template=PairTemplate(prefix="{query}: ", positive="yes", temperature=5.0),
        adapter="legal",
        max_length=512,
        truncate=True,
        max_batch_tokens=None,
        deterministic=False,
        prefix_sharing=False,
        revision=None,
        top_n=3,
        keep_retrieval_score=True,
        metadata_mode=MetadataMode.NONE,
    )
    remote = QuernstoneRerank(
        engine="remote", engine_options=RemoteOptions(endpoint="http://localhost:8000")
    )
    remote.postprocess_nodes(nodes, query_str=query)
    interface: BaseNodePostprocessor = postprocessor
    best = interface.postprocess_nodes(nodes, query_bundle=QueryBundle(query))
    best += await postprocessor.apostprocess_nodes(nodes, query_str=query)
    top_n: int | None = postprocessor.top_n
    return best[:top_n]


async def retrieve(client: QdrantClient, embed_model: BaseEmbedding) -> list[NodeWithScore]:
    ours = QuernstoneEmbedding(model_name="tiny")
    QdrantLoader(client, "docs", ours)
    QdrantLoader(client, "docs", embed_model)
    reranker = QuernstoneRerank(model="tiny").reranker
    searcher = QdrantSearcher(client, "docs", embed_model, reranker)
    retriever = QuernstoneRetriever(
        searcher,
        similarity_top_k=3,
        hybrid=True,
        filters=MetadataFilters(filters=[]),
        candidates=20,
        prefetch=200,
        instruction="Find",
        callback_manager=CallbackManager([]),
    )
    interface: BaseRetriever = QuernstoneRetriever.from_collection(
        client, "docs", ours, reranker, filters={"year": 1200}
    )
    return retriever.retrieve("q") + await interface.aretrieve(QueryBundle("q"))


class TestEmbedding(EmbeddingTests):
    @property
    def embedding_class(self) -> type[QuernstoneEmbedding]:
        return QuernstoneEmbedding

    @property
    def neutral_params(self) -> dict[str, Any]:
        return {"device": "cpu"}


class TestRerank(RerankTests):
    @property
    def rerank_class(self) -> type[QuernstoneRerank]:
        return QuernstoneRerank

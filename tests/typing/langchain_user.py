"""Every public name of langchain-quernstone, as a user with a strict type checker writes it."""

from collections.abc import Sequence
from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from qdrant_client import QdrantClient

from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
    QuernstoneRetriever,
    RerankInput,
)
from langchain_quernstone.testing import CrossEncoderTests, DocumentCompressorTests
from quernstone import PairTemplate, RemoteOptions
from quernstone_qdrant import QdrantLoader, QdrantSearcher


async def embed(texts: list[str]) -> list[list[float]]:
    embeddings = QuernstoneEmbeddings(
        model="tiny",
        engine="torch",
        device="cpu",
        dtype="float32",
        dimensions=64,
        instruction="Find the tool",
        max_length=512,
        truncate=False,
        max_batch_tokens=4096,
        revision="main",
        engine_options={"backend": "onnx"},
    )
    interface: Embeddings = embeddings
    query: list[float] = embeddings.embed_query(embeddings.fingerprint)
    vectors = [query, await embeddings.aembed_query("q"), *embeddings.embed_documents(texts)]
    dimensions: int | None = embeddings.dimensions
    return [*vectors, *await interface.aembed_documents(texts), [float(dimensions or 0)]]


async def rerank(documents: Sequence[Document], query: str) -> list[Document]:
    reranker = QuernstoneReranker(
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
        top_n=None,
        score_threshold=0.5,
    )
    remote = QuernstoneReranker(
        engine="remote", engine_options=RemoteOptions(endpoint="http://localhost:8000")
    )
    await remote.acompress_documents(documents, query)
    interface: BaseDocumentCompressor = reranker
    interface.compress_documents(documents, query, callbacks=[])
    best: list[Document] = reranker.compress_documents(documents, query)
    step: Runnable[RerankInput, list[Document]] = reranker.as_runnable()
    given: RerankInput = {"query": query, "documents": documents}
    best += step.invoke(given)
    best += await step.ainvoke(RerankInput(query=query, documents=documents))
    return best + await reranker.acompress_documents(documents, query)


async def score(pairs: list[tuple[str, str]]) -> list[float]:
    encoder = QuernstoneCrossEncoder(model="tiny", template="card")
    interface: BaseCrossEncoder = encoder
    return interface.score(pairs) + encoder.score(pairs) + await encoder.ascore(pairs)


def chain(retriever: BaseRetriever) -> list[Document]:
    reranker = QuernstoneReranker(model="tiny")
    found: list[Document] = retriever.invoke("q")
    return reranker.as_runnable().invoke({"query": "q", "documents": found})


async def retrieve(client: QdrantClient, embeddings: Embeddings) -> list[Document]:
    ours = QuernstoneEmbeddings(model="tiny")
    QdrantLoader(client, "docs", ours)
    QdrantLoader(client, "docs", embeddings)
    reranker = QuernstoneReranker(model="tiny").reranker
    searcher = QdrantSearcher(client, "docs", embeddings, reranker)
    retriever = QuernstoneRetriever(
        searcher=searcher,
        k=3,
        hybrid=True,
        query_filter={"year": 1200},
        candidates=20,
        prefetch=200,
        instruction="Find",
    )
    interface: BaseRetriever = QuernstoneRetriever.from_collection(
        client, "docs", ours, reranker, k=3
    )
    return retriever.invoke("q", k=1) + await interface.ainvoke("q")


class TestReranker(DocumentCompressorTests):
    @property
    def compressor_class(self) -> type[QuernstoneReranker]:
        return QuernstoneReranker

    @property
    def compressor_params(self) -> dict[str, Any]:
        return {"model": "tiny"}


class TestCrossEncoder(CrossEncoderTests):
    @property
    def cross_encoder_class(self) -> type[QuernstoneCrossEncoder]:
        return QuernstoneCrossEncoder

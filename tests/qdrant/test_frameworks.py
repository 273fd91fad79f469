"""What the loader writes is read by LangChain's and LlamaIndex's own vector stores."""

import pytest
from qdrant_client import models

from quernstone_qdrant import QdrantLoader

RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill for grinding grain.", "year": 1200},
    {"id": "rain", "text": "Rain falls on the stone roof.", "year": 1300},
    {"id": "bread", "text": "Bread is made of grain. " * 40, "year": 1300},
]


@pytest.fixture
def collection(client, embedder):
    loader = QdrantLoader(client, "docs", embedder, chunk_size=300, chunk_overlap=0)
    assert loader.load(RECORDS).embedded > 4
    return "docs"


def test_langchain(client, collection, embedder):
    embeddings = pytest.importorskip("langchain_core.embeddings")
    from langchain_qdrant import QdrantVectorStore

    class Embeddings(embeddings.Embeddings):
        def embed_documents(self, texts):
            return embedder.embed_documents(texts).tolist()

        def embed_query(self, text):
            return embedder.embed_query(text).tolist()

    store = QdrantVectorStore(client, collection, embedding=Embeddings())
    (document,) = store.similarity_search("stone hand mill", k=1)
    assert document.page_content == RECORDS[0]["text"]
    assert {k: v for k, v in document.metadata.items() if not k.startswith("_")} == {
        "year": 1200,
        "chunk": 0,
    }
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=1300))]
    )
    found = store.similarity_search("stone", k=10, filter=only)
    assert {document.metadata["year"] for document in found} == {1300}
    store.delete([document.metadata["_id"]])
    assert "mill" not in {p.payload["doc_id"] for p in client.scroll(collection)[0]}


def test_llama_index(client, collection, embedder):
    core = pytest.importorskip("llama_index.core")
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    class Embedding(BaseEmbedding):
        def _get_text_embedding(self, text):
            return embedder.embed_documents([text])[0].tolist()

        def _get_query_embedding(self, query):
            return embedder.embed_query(query).tolist()

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    store = QdrantVectorStore(collection_name=collection, client=client)
    index = core.VectorStoreIndex.from_vector_store(store, embed_model=Embedding())
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("stone hand mill")
    assert found.text == RECORDS[0]["text"]
    assert found.metadata == {"year": 1200, "chunk": 0}
    assert found.node.ref_doc_id == "mill"

    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=1300)])
    nodes = index.as_retriever(similarity_top_k=10, filters=filters).retrieve("stone")
    assert {node.metadata["year"] for node in nodes} == {1300}

    store.delete("bread")
    assert {p.payload["doc_id"] for p in client.scroll(collection)[0]} == {"mill", "rain"}
    report = QdrantLoader(client, collection, embedder, chunk_size=300, chunk_overlap=0).load(
        RECORDS
    )
    assert (report.embedded, report.skipped) == (report.chunks - 2, 2)

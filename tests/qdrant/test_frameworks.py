"""What the loader writes is read by LangChain's and LlamaIndex's own vector stores.

Searched with a filter, deleted by document, and loaded again: in every layout that a framework can
read, on an unnamed vector, a named one, and a pair.
"""

import pytest
from qdrant_client import models

from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.settings import PRESETS, CollectionSettings

RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill for grinding grain.", "year": 1200},
    {"id": "rain", "text": "Rain falls on the stone roof.", "year": 1300},
    {"id": "bread", "text": "Bread is made of grain. " * 40, "year": 1300},
]
VECTORS = {
    "unnamed": (CollectionSettings(), ""),
    "named": (CollectionSettings(vector="text-dense"), "text-dense"),
    "pair": (PRESETS["mrl"], "dense"),
}


@pytest.fixture(params=VECTORS)
def vectors(request):
    """(settings, name of the full vector)"""
    return VECTORS[request.param]


@pytest.fixture
def load(client, embedder, layout, vectors):
    def load():
        loader = QdrantLoader(
            client,
            "docs",
            embedder,
            preset=vectors[0],
            layout=layout,
            chunk_size=300,
            chunk_overlap=0,
        )
        return loader.load(RECORDS)

    assert load().embedded > 4
    return load


def keys(client):
    points, _ = client.scroll("docs", limit=1000)
    return {point.payload["quernstone"]["key"] for point in points}


def assert_bread_comes_back(client, embedder, load):
    """The loader embeds what a framework has deleted, and nothing else."""
    assert keys(client) == {"mill", "rain"}
    hits = QdrantSearcher(client, "docs", embedder).search("bread of grain", limit=20)
    assert {hit.key for hit in hits} == {"mill", "rain"}
    report = load()
    assert (report.embedded, report.skipped) == (report.chunks - 2, 2)
    assert keys(client) == {"mill", "rain", "bread"}


@pytest.mark.parametrize("layout", ["universal", "langchain"])
def test_langchain(client, embedder, load, vectors):
    embeddings = pytest.importorskip("langchain_core.embeddings")
    from langchain_qdrant import QdrantVectorStore

    class Embeddings(embeddings.Embeddings):
        def embed_documents(self, texts):
            return embedder.embed_documents(texts).tolist()

        def embed_query(self, text):
            return embedder.embed_query(text).tolist()

    store = QdrantVectorStore(client, "docs", embedding=Embeddings(), vector_name=vectors[1])
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

    # LangChain deletes points, and finds those of a document by a filter
    bread = models.Filter(
        must=[models.FieldCondition(key="quernstone.key", match=models.MatchValue(value="bread"))]
    )
    points = store.similarity_search("bread", k=1000, filter=bread)
    assert len(points) > 2
    assert store.delete([document.metadata["_id"] for document in points])
    assert_bread_comes_back(client, embedder, load)


@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_llama_index(client, embedder, load, vectors):
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

    named = {"dense_vector_name": vectors[1]} if vectors[1] else {}
    store = QdrantVectorStore(collection_name="docs", client=client, **named)
    index = core.VectorStoreIndex.from_vector_store(store, embed_model=Embedding())
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("stone hand mill")
    assert found.text == RECORDS[0]["text"]
    assert found.metadata == {"year": 1200, "chunk": 0}
    assert found.node.ref_doc_id == "mill"

    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=1300)])
    nodes = index.as_retriever(similarity_top_k=10, filters=filters).retrieve("stone")
    assert {node.metadata["year"] for node in nodes} == {1300}

    store.delete("bread")
    assert_bread_comes_back(client, embedder, load)

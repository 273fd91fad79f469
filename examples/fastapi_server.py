"""Serve many users from both frameworks with one model.

    pip install "langchain-quernstone[torch]" "llama-index-quernstone[torch]" langchain-qdrant \
        llama-index-vector-stores-qdrant fastapi "uvicorn[standard]"
    cd examples && uvicorn fastapi_server:app
    curl "localhost:8000/langchain/search?query=edit+a+photo&rerank=true"

The handlers are coroutines on one event loop. Concurrent queries share a forward pass, whichever
framework they come from: the adapters below use one embedding model and one reranker in memory,
because their settings are equal.
"""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from corpus import PACKAGES
from fastapi import FastAPI
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore as LangChainStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexStore
from pydantic import BaseModel
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.models import Distance, VectorParams

from langchain_quernstone import QuernstoneEmbeddings, QuernstoneReranker
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank

# The bundled models; for real work "Qwen/Qwen3-Embedding-0.6B" and "Qwen/Qwen3-Reranker-0.6B".
MODEL = "tiny"
CANDIDATES = 8

embeddings = QuernstoneEmbeddings(model=MODEL)
embed_model = QuernstoneEmbedding(model_name=MODEL)
# Created once: a model is unloaded when the last object that uses it is garbage-collected.
reranker = QuernstoneReranker(model=MODEL, top_n=None)
rerank_nodes = QuernstoneRerank(model=MODEL, top_n=CANDIDATES, metadata_mode=MetadataMode.NONE)
IDS = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in PACKAGES}


class Hit(BaseModel):
    """One result."""

    package: str
    text: str
    score: float


async def langchain_store() -> LangChainStore:
    """Store the corpus with LangChain."""
    client = QdrantClient(":memory:")
    size = len(await embeddings.aembed_query("size"))
    client.create_collection("packages", VectorParams(size=size, distance=Distance.COSINE))
    store = LangChainStore(client, "packages", embeddings, validate_collection_config=False)
    documents = [Document(text, metadata={"package": name}) for name, text in PACKAGES.items()]
    await store.aadd_documents(documents, ids=list(IDS.values()))
    return store


async def llamaindex_index() -> VectorStoreIndex:
    """Store the corpus with LlamaIndex."""
    store = LlamaIndexStore("packages", aclient=AsyncQdrantClient(":memory:"))
    nodes = [
        TextNode(text=text, id_=IDS[name], metadata={"package": name})
        for name, text in PACKAGES.items()
    ]
    for node, vector in zip(
        nodes, await embed_model.aget_text_embedding_batch(list(PACKAGES.values())), strict=True
    ):
        node.embedding = vector
    await store.async_add(nodes)
    return VectorStoreIndex.from_vector_store(store, embed_model=embed_model)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the models and the corpus before the first request."""
    app.state.store = await langchain_store()
    app.state.retriever = (await llamaindex_index()).as_retriever(similarity_top_k=CANDIDATES)
    # What is loaded stays loaded. Without this, a full garbage collection sometimes walks all of it
    # and stops every search for a quarter of a second.
    gc.collect()
    gc.freeze()
    yield


app = FastAPI(title="Quernstone example", lifespan=lifespan)


@app.get("/langchain/search")
async def langchain_search(query: str, limit: int = 3, rerank: bool = False) -> list[Hit]:
    """Search with LangChain's classes."""
    # langchain-qdrant's async methods embed in a few threads. Awaited here, on the event loop, any
    # number of waiting queries share a batch.
    vector = await embeddings.aembed_query(query)
    search = app.state.store.similarity_search_with_score_by_vector
    found = await asyncio.to_thread(search, vector, k=CANDIDATES)
    if not rerank:
        return [_hit(d.metadata["package"], d.page_content, score) for d, score in found[:limit]]
    best = await reranker.acompress_documents([document for document, _ in found], query)
    return [
        _hit(d.metadata["package"], d.page_content, d.metadata["relevance_score"])
        for d in best[:limit]
    ]


@app.get("/llamaindex/search")
async def llamaindex_search(query: str, limit: int = 3, rerank: bool = False) -> list[Hit]:
    """Search with LlamaIndex's classes."""
    found = await app.state.retriever.aretrieve(query)
    if rerank:
        found = await rerank_nodes.apostprocess_nodes(found, query_str=query)
    return [_hit(node.metadata["package"], node.text, node.score) for node in found[:limit]]


def _hit(package: str, text: str, score: float) -> Hit:
    return Hit(package=package, text=text, score=score)

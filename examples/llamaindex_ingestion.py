"""An ingestion pipeline into Qdrant, and a query engine with Qwen3 reranking. Runs offline.

pip install "llama-index-quernstone[torch]" llama-index-vector-stores-qdrant
python examples/llamaindex_ingestion.py "edit a photo"
"""

import sys

from corpus import PACKAGES
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank

# The bundled models; for real work "Qwen/Qwen3-Embedding-0.6B" and "Qwen/Qwen3-Reranker-0.6B".
MODEL = "tiny"


def documents() -> list[Document]:
    """Return the corpus. Stable ids let the pipeline detect what changed."""
    return [
        Document(text=text, id_=name, metadata={"package": name}) for name, text in PACKAGES.items()
    ]


def build_pipeline() -> IngestionPipeline:
    """Build a pipeline that splits, embeds and stores; the next run skips unchanged documents."""
    return IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=256, chunk_overlap=0),
            QuernstoneEmbedding(model_name=MODEL),
        ],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=QdrantVectorStore("packages", client=QdrantClient(":memory:")),
    )


def build_query_engine(pipeline: IngestionPipeline, k: int = 3) -> BaseQueryEngine:
    """Build an engine that fetches `4 * k` candidates and answers from the best `k`."""
    index = VectorStoreIndex.from_vector_store(
        pipeline.vector_store, embed_model=QuernstoneEmbedding(model_name=MODEL)
    )
    return index.as_query_engine(
        llm=MockLLM(),  # repeats its prompt, which contains the nodes
        similarity_top_k=4 * k,
        node_postprocessors=[QuernstoneRerank(model=MODEL, top_n=k)],
    )


def main() -> None:
    question = " ".join(sys.argv[1:]) or "edit a photo"
    pipeline = build_pipeline()
    print("embedded:", len(pipeline.run(documents=documents())))
    print("embedded again:", len(pipeline.run(documents=documents())))
    for node in build_query_engine(pipeline).query(question).source_nodes:
        print(f"{node.score:.3f}  {node.metadata['package']:12} {node.text}")


if __name__ == "__main__":
    main()

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
    """The corpus; ids that stay the same let the pipeline tell what changed."""
    return [
        Document(text=text, id_=name, metadata={"package": name}) for name, text in PACKAGES.items()
    ]


def build_pipeline() -> IngestionPipeline:
    """Split, embed and store; documents that did not change are skipped on the next run."""
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
    """Fetch four times `k` candidates by vector, and answer from the `k` best."""
    index = VectorStoreIndex.from_vector_store(
        pipeline.vector_store, embed_model=QuernstoneEmbedding(model_name=MODEL)
    )
    return index.as_query_engine(
        llm=MockLLM(),  # repeats its prompt, which holds the nodes
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

"""Qdrant retrieval with Qwen3 reranking, composed in LCEL. Runs offline.

pip install "langchain-quernstone[torch]" langchain-qdrant langchain-classic
python examples/langchain_retrieval.py "edit a photo"
"""

import sys
import uuid

from corpus import PACKAGES
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, VectorParams

from langchain_quernstone import QuernstoneEmbeddings, QuernstoneReranker

# The bundled models; for real work "Qwen/Qwen3-Embedding-0.6B" and "Qwen/Qwen3-Reranker-0.6B".
MODEL = "tiny"


def build_store() -> QdrantVectorStore:
    """Store the corpus in an embedded Qdrant. For a server, pass its URL to the client."""
    embeddings = QuernstoneEmbeddings(model=MODEL)
    client = QdrantClient(":memory:")
    size = len(embeddings.embed_query("size"))
    client.create_collection("packages", VectorParams(size=size, distance=Distance.COSINE))
    store = QdrantVectorStore(client, "packages", embeddings)
    store.add_documents(
        [Document(text, metadata={"package": name}) for name, text in PACKAGES.items()],
        # Ids derived from the key: a second run replaces the points instead of duplicating them.
        ids=[str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in PACKAGES],
    )
    return store


def build_retriever(k: int = 3) -> ContextualCompressionRetriever:
    """Fetch four times `k` candidates by vector, and keep the best `k` by reranking."""
    return ContextualCompressionRetriever(
        base_retriever=build_store().as_retriever(search_kwargs={"k": 4 * k}),
        base_compressor=QuernstoneReranker(model=MODEL, top_n=k),
    )


def build_chain(retriever: ContextualCompressionRetriever) -> Runnable[str, str]:
    """Answer a question from what the retriever finds."""
    prompt = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
    return (
        {"context": retriever | _as_context, "question": RunnablePassthrough()}
        | prompt
        | RunnableLambda(_first_line)
        | StrOutputParser()
    )


def build_pipe(store: QdrantVectorStore, k: int = 3) -> Runnable[str, list[Document]]:
    """Build the same retrieval with pipes, without `langchain_classic`."""
    candidates = store.as_retriever(search_kwargs={"k": 4 * k})
    reranker = QuernstoneReranker(model=MODEL, top_n=k)
    return {"query": RunnablePassthrough(), "documents": candidates} | reranker.as_runnable()


def _as_context(documents: list[Document]) -> str:
    return "\n".join(f"{d.metadata['package']}: {d.page_content}" for d in documents)


def _first_line(prompt) -> AIMessage:
    """Stand in for a chat model: repeat the first line of the context."""
    return AIMessage(prompt.to_string().splitlines()[1])


def main() -> None:
    question = " ".join(sys.argv[1:]) or "edit a photo"
    retriever = build_retriever()
    for document in retriever.invoke(question):
        score = document.metadata["relevance_score"]
        print(f"{score:.3f}  {document.metadata['package']:12} {document.page_content}")
    print("answer:", build_chain(retriever).invoke(question))


if __name__ == "__main__":
    main()

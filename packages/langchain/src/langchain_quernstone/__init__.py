"""Qwen3-Embedding and Qwen3-Reranker for LangChain."""

from langchain_quernstone.cross_encoder import QuernstoneCrossEncoder
from langchain_quernstone.embeddings import QuernstoneEmbeddings
from langchain_quernstone.reranker import QuernstoneReranker, RerankInput
from langchain_quernstone.retriever import QuernstoneRetriever

__all__ = [
    "QuernstoneCrossEncoder",
    "QuernstoneEmbeddings",
    "QuernstoneReranker",
    "QuernstoneRetriever",
    "RerankInput",
]

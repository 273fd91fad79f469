"""Search of Qdrant collections for LlamaIndex."""

from llama_index.retrievers.quernstone.base import QuernstoneRetriever

__all__ = ["QuernstoneRetriever"]

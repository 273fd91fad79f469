"""The app of docs/search-service.md with embeddings that cost nothing.

What is left is what the frameworks, the embedded Qdrant and HTTP take by themselves: no embedding
class, ours or another, can answer more searches a second. Started by `benchmarks.serving`.
"""

from __future__ import annotations

import search_service
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

# unit length, and as many numbers as the tiny model's
_VECTOR = [1 / 16] * 256

app = search_service.app


class InstantEmbeddings(Embeddings):
    """LangChain's interface; the same vector for every text."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `Embeddings`."""
        return [_VECTOR for _ in texts]

    def embed_query(self, text: str) -> list[float]:  # noqa: ARG002 - the interface's
        """See `Embeddings`."""
        return _VECTOR

    async def aembed_query(self, text: str) -> list[float]:
        """See `Embeddings`, whose own version asks a thread."""
        return self.embed_query(text)


class InstantEmbedding(BaseEmbedding):
    """LlamaIndex's interface; the same vector for every text."""

    def _get_text_embedding(self, text: str) -> list[float]:  # noqa: ARG002 - the interface's
        return _VECTOR

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


# the app reads both when it starts
search_service.embeddings = InstantEmbeddings()
search_service.embed_model = InstantEmbedding()

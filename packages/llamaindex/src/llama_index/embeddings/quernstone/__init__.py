"""Qwen3-Embedding for LlamaIndex."""

from llama_index.embeddings.quernstone.base import QuernstoneEmbedding

__all__ = ["QuernstoneEmbedding"]

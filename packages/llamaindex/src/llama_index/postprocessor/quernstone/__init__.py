"""Qwen3-Reranker for LlamaIndex."""

from llama_index.postprocessor.quernstone.base import QuernstoneRerank

__all__ = ["QuernstoneRerank"]

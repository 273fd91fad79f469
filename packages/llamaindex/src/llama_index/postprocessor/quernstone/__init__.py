"""Qwen3-Reranker for LlamaIndex."""

from llama_index.postprocessor.quernstone.base import NodesWithoutTextWarning, QuernstoneRerank

__all__ = ["NodesWithoutTextWarning", "QuernstoneRerank"]

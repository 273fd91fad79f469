"""Shared code of the adapters for LangChain and LlamaIndex."""

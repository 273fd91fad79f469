"""The Qwen3 model: its decoder, its linear layers, and the code that reads its weights."""

from quernstone.qwen3.decoder import AllKeys, Inputs, Qwen3
from quernstone.qwen3.weights import load_qwen3

__all__ = ["AllKeys", "Inputs", "Qwen3", "load_qwen3"]

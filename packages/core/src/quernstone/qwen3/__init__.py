"""The Qwen3 model: the decoder, its products, and the reading of its weights."""

from quernstone.qwen3.decoder import Inputs, LayerPrefixes, Qwen3
from quernstone.qwen3.weights import load_qwen3

__all__ = ["Inputs", "LayerPrefixes", "Qwen3", "load_qwen3"]

"""Quernstone runs Qwen3-Embedding and Qwen3-Reranker: exact, fast, and pleasant to use."""

from quernstone.embedder import Embedder
from quernstone.engines.remote.options import RemoteOptions
from quernstone.errors import (
    ClosedError,
    ConfigError,
    EngineError,
    EngineMemoryError,
    InputError,
    InputTooLongError,
    MissingExtraError,
    ModelLoadError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.reranker import Reranker
from quernstone.types import EngineInfo, RankedDocument, Usage

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "ConfigError",
    "Embedder",
    "EngineError",
    "EngineInfo",
    "EngineMemoryError",
    "InputError",
    "InputTooLongError",
    "MissingExtraError",
    "ModelLoadError",
    "NonFiniteError",
    "QuernstoneError",
    "RankedDocument",
    "RemoteOptions",
    "Reranker",
    "Usage",
]

"""Quernstone runs Qwen3-Embedding and Qwen3-Reranker: exact, fast, and pleasant to use."""

from typing import TYPE_CHECKING, Any

from quernstone.embedder import Embedder
from quernstone.encoding.templates import PairTemplate
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
    RemoteAnswerError,
    RemoteError,
    RemoteRequestError,
    RemoteUnavailableError,
)
from quernstone.reranker import Reranker
from quernstone.types import EngineInfo, RankedDocument, Usage

if TYPE_CHECKING:
    from quernstone.engines.remote.options import RemoteOptions

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
    "PairTemplate",
    "QuernstoneError",
    "RankedDocument",
    "RemoteAnswerError",
    "RemoteError",
    "RemoteOptions",
    "RemoteRequestError",
    "RemoteUnavailableError",
    "Reranker",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name == "RemoteOptions":  # on use: pydantic takes a third of `import quernstone`
        from quernstone.engines.remote.options import RemoteOptions  # noqa: PLC0415

        return RemoteOptions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

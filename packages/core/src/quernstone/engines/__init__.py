"""The engines that run a model, imported only when one is asked for."""

from __future__ import annotations

import importlib.util

from quernstone.errors import ConfigError, MissingExtraError
from quernstone.models import Checkpoint
from quernstone.tokenization import Tokenization
from quernstone.types import Engine, EngineConfig, EngineName

ENGINES = ("torch", "transformers")


def choose_engine(name: EngineName, checkpoint: Checkpoint) -> str:
    """Resolve `auto`: our packed engine for Qwen3, transformers for any other architecture.

    Raises:
        ConfigError: There is no engine of that name, or it cannot run this architecture.
        MissingExtraError: The engine's packages are not installed.
    """
    if name == "auto":
        name = "torch" if checkpoint.is_qwen3 else "transformers"
    if name not in ENGINES:
        msg = f"unknown engine {name!r}; the engines are auto, {', '.join(ENGINES)}"
        raise ConfigError(msg)
    if name == "torch" and not checkpoint.is_qwen3:
        msg = (
            f"the torch engine runs Qwen3 checkpoints, and `{checkpoint.name}` is a "
            f'{checkpoint.architecture}; use `engine="transformers"`'
        )
        raise ConfigError(msg)
    for module in ("torch", name):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, name)
    return name


def load_engine(config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenization) -> Engine:
    """Load the model that `config` describes.

    Raises:
        ConfigError: An unknown device or dtype, or one that this machine does not have.
        ModelLoadError: The checkpoint is incomplete or damaged.
    """
    if config.engine == "torch":
        from quernstone.engines.torch import TorchEngine

        return TorchEngine(config, checkpoint, tokenization)
    from quernstone.engines.transformers import TransformersEngine

    return TransformersEngine(config, checkpoint, tokenization)

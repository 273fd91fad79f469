"""The engines that run models. An engine is imported only when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.checkpoints.differences import ALL
from quernstone.checkpoints.families import FAMILIES
from quernstone.checkpoints.files import MODULES
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import ConfigError, MissingExtraError, ModelLoadError, QuernstoneError
from quernstone.types import Backend, Engine, EngineConfig, Task

logger = logging.getLogger("quernstone")

# The module and the class of each engine, and the packages that its extra contains.
_ENGINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "torch": ("torch.engine", "TorchEngine", ("torch",)),
    "transformers": ("transformers", "TransformersEngine", ("torch", "transformers")),
    "sentence-transformers": (
        "sentence_transformers",
        "SentenceTransformersEngine",
        ("torch", "sentence_transformers"),
    ),
    "vllm": ("vllm", "VllmEngine", ("vllm",)),
    "remote": ("remote.backend", "RemoteBackend", ()),
}
ENGINES = tuple(_ENGINES)


def check_engine(name: str) -> None:
    """Raise `ConfigError` if the engine is unknown."""
    if name != "auto" and name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}; the engines are auto, {', '.join(ENGINES)}")


def choose_engine(name: str, checkpoint: Checkpoint, task: Task = "embed") -> str:
    """Resolve `auto` for a local checkpoint, and check that the engine can run it.

    For the model families of the torch engine, `auto` chooses the first engine of `ALL` that
    supports all fields of the model's files. For other families it chooses sentence-transformers
    for models in its format, if it is installed, and transformers for any other decoder.

    Raises:
        ModelLoadError: The checkpoint has a field that no engine supports.
        ConfigError: The checkpoint has a field that the chosen engine does not support.
        MissingExtraError: A package of the engine is not installed.
    """
    check_engine(name)
    possible = [
        each
        for each in ALL
        if (each != "torch" or checkpoint.family is not None)
        and all(each in found.engines for found in checkpoint.differences)
    ]
    if not possible:
        listed = "; ".join(map(str, checkpoint.differences))
        msg = f"no engine supports all fields in the files of `{checkpoint.name}`: {listed}"
        raise ModelLoadError(msg)
    if name == "auto":
        name = _automatic(checkpoint, task, possible)
        why = explain_choice(name, checkpoint)
        logger.info("`%s` runs on the %s engine: %s", checkpoint.name, name, why)
    if name == "torch" and checkpoint.family is None:
        families = ", ".join(family.name for family in FAMILIES.values())
        raise ConfigError(
            f"the torch engine runs {families}, and `{checkpoint.name}` is a "
            f'{checkpoint.architecture}; use `engine="transformers"` or '
            '`engine="sentence-transformers"`'
        )
    for each in checkpoint.differences:
        if name not in each.engines:
            raise ConfigError(
                f"the {name} engine cannot run `{checkpoint.name}`: {each}; use "
                f'`engine="{possible[0]}"`'
            )
    pooling = checkpoint.modules.pooling
    is_foreign = checkpoint.family is None and pooling not in (None, "lasttoken")
    if task == "embed" and name != "sentence-transformers" and is_foreign:
        raise ConfigError(
            f"`{checkpoint.name}` pools by {pooling!r}; the {name} engine pools the last token, as "
            'Qwen3-Embedding does; use `engine="sentence-transformers"`'
        )
    for module in _ENGINES[name][2]:
        if not _is_installed(module):
            raise MissingExtraError(module, name)
    return name


def explain_choice(name: str, checkpoint: Checkpoint) -> str:
    """Return why `auto` chose an engine for a checkpoint."""
    if checkpoint.differences:
        return "; ".join(map(str, checkpoint.differences))
    if checkpoint.family is not None:
        return f"torch supports all fields in the files of this {checkpoint.family.name} model"
    kind = f"torch has no decoder for a {checkpoint.architecture}"
    if name != "sentence-transformers":
        return kind
    scores = checkpoint.task == "rerank"
    return f"{kind}, which {'has a classification head' if scores else f'comes with `{MODULES}`'}"


def takes_text(name: str, checkpoint: Checkpoint, task: Task) -> bool:
    """Return True if an engine gets texts for this checkpoint, and tokenizes and cuts them itself.

    Other engines get token ids of Quernstone's prompts, already cut. So does sentence-transformers
    for Qwen3-Embedding, and for rerankers of the torch engine's families.
    """
    if name != "sentence-transformers":
        return name == "remote"
    renders = any("transformers" not in found.engines for found in checkpoint.differences)
    if task == "rerank":
        return renders or checkpoint.family is None or checkpoint.architecture.endswith("Model")
    return not checkpoint.is_qwen3 or renders


def load_engine(
    config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenizer | None
) -> Engine[Any]:
    """Load the model that `config` describes.

    Raises:
        ConfigError: A device, dtype or option is unknown, or not supported by this machine.
        ModelLoadError: The checkpoint is incomplete or damaged, or the library cannot load it.
    """
    try:
        engine: Engine[Any] = _class_of(config.engine)(config, checkpoint, tokenization)
    except (QuernstoneError, ImportError):
        raise
    except Exception as error:  # libraries raise anything; convert it to one type
        if config.options and isinstance(error, TypeError):
            msg = f"the {config.engine} engine does not take these `engine_options`: {error}"
            raise ConfigError(msg) from error
        msg = f"the {config.engine} engine cannot load `{checkpoint.folder}`: {error}"
        raise ModelLoadError(msg) from error
    return engine


def each_device(config: EngineConfig) -> list[EngineConfig]:
    """Return a configuration for each of the GPUs that `config.device` names.

    Raises:
        ConfigError: The list is invalid, or the engine distributes a model over GPUs itself.
    """
    if "," not in config.device and not config.device.endswith(":all"):
        return [config]
    if config.engine == "vllm":
        raise ConfigError(
            f'`device` is {config.device!r}, but with `engine="vllm"` one engine uses all GPUs: '
            'pass `engine_options={"tensor_parallel_size": 2}`, or start a process for each GPU'
        )
    from quernstone.engines.placement import choose_devices

    return [replace(config, device=device) for device in choose_devices(config.device)]


def connect(config: EngineConfig) -> Backend:
    """Connect to the server that `config.options` describes."""
    backend: Backend = _class_of("remote")(config)
    return backend


def _class_of(name: str) -> Any:
    module, class_name, _ = _ENGINES[name]
    return getattr(importlib.import_module(f"quernstone.engines.{module}"), class_name)


def _automatic(checkpoint: Checkpoint, task: Task, possible: Sequence[str]) -> str:
    if checkpoint.family is not None:
        return possible[0]
    for_library = checkpoint.is_sentence_transformers
    if task == "rerank":
        for_library = checkpoint.architecture.endswith("ForSequenceClassification")
    if for_library and _is_installed("sentence_transformers"):
        return "sentence-transformers"
    return "transformers"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

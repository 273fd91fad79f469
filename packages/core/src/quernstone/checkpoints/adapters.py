"""Find a LoRA adapter in PEFT's format, and read its configuration.

An adapter is merged into the weights of its base model when they are loaded
(`quernstone.qwen3.lora`). It is a folder of its own, or one of several in the folder of its model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from quernstone.checkpoints.files import (
    MODULES,
    PROMPTS,
    content_digest,
    join_digests,
    read_json,
    weight_names,
)
from quernstone.checkpoints.hubs import locate
from quernstone.errors import ConfigError, ModelLoadError
from quernstone.types import Task

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_SUBFOLDERS = "adapters"
"""The folder in which a model keeps several adapters."""

_IMPLEMENTED = {
    "alpha_pattern", "base_model_name_or_path", "lora_alpha", "peft_type", "r", "rank_pattern",
    "revision", "use_dora", "use_rslora",
}  # fmt: skip

# The names of the stored tensors say which modules and layers are adapted or replaced. The other
# fields matter for training, or describe the file.
_IRRELEVANT = {
    "auto_mapping", "bias", "corda_config", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save",
    "peft_version", "qalora_group_size", "runtime_config", "target_modules", "task_type",
}  # fmt: skip

# Initializations that change the weights of the base model as well.
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")

_LOCAL = ("base_model_name_or_path", "revision")
"""Fields that are left out of the digest, because they may name a local path."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter in a local folder."""

    folder: Path
    config: Mapping[str, Any]
    """The contents of its `adapter_config.json`."""

    @property
    def weights(self) -> Path:
        """The file of its tensors."""
        return self.folder / WEIGHTS

    @property
    def digest(self) -> str:
        """A hash of its configuration and its files, see `content_digest`."""
        kept = {k: v for k, v in self.config.items() if k not in _LOCAL}
        fields = hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return join_digests(fields, content_digest(self.folder, modules=True))

    @property
    def has_modules(self) -> bool:
        """True if prompts or modules for sentence-transformers come with the adapter."""
        return any((self.folder / name).is_file() for name in (MODULES, PROMPTS))

    @property
    def has_tokenizer(self) -> bool:
        """True if a tokenizer comes with the adapter."""
        return (self.folder / "tokenizer.json").is_file()


def is_adapter(folder: Path) -> bool:
    """Return True if a folder holds an adapter and no weights of a model."""
    return (folder / CONFIG).is_file() and not weight_names(folder)


def read_adapter(folder: Path) -> Adapter:
    """Read the configuration of the adapter in a folder.

    Raises:
        ModelLoadError: A file is missing, or holds something else.
    """
    adapter = Adapter(folder, read_json(folder / CONFIG))
    if not adapter.weights.is_file():
        raise ModelLoadError(
            f"`{folder}` holds `{CONFIG}` and no `{WEIGHTS}`; weights in other formats are not "
            "supported"
        )
    return adapter


def base_of(adapter: Adapter) -> tuple[str, str | None]:
    """Return the name and the revision of the model that an adapter belongs to.

    Raises:
        ModelLoadError: Its configuration does not say.
    """
    name = adapter.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelLoadError(
            f"`{adapter.folder}` holds a LoRA adapter, and its `{CONFIG}` does not name the base "
            "model: pass that as the model, and this folder as `adapter`"
        )
    return name, adapter.config.get("revision")


def find_adapter(
    name: str, model: str, folder: Path, task: Task, cache_folder: str | None = None
) -> Adapter:
    """Find an adapter that the user named.

    Args:
        name: An adapter in the model's folder or in its subfolder `adapters`, else a local folder
            or a hub id.
        model: Name of the model, for messages.
        folder: The model's folder.
        task: The use of the model.
        cache_folder: See `resolve`.

    Raises:
        ModelLoadError: There is no such adapter.
    """
    inside = [folder / _SUBFOLDERS / name, folder / name]
    found = next((path for path in inside if (path / CONFIG).is_file()), None)
    if found is None:
        own = ", ".join(adapters_in(folder))
        try:
            found = locate(name, task, cache_folder=cache_folder).folder
        except ModelLoadError as error:
            has = f"`{model}` has the adapters {own}" if own else f"`{model}` has no adapters"
            raise ModelLoadError(f"there is no adapter `{name}`: {has}, and {error}") from error
        if not (found / CONFIG).is_file():
            msg = f"`{found}` holds no `{CONFIG}`, so it is not a LoRA adapter in PEFT's format"
            raise ModelLoadError(msg)
    return read_adapter(found)


def adapters_in(folder: Path) -> list[str]:
    """Return the names of the adapters that a model keeps in its folder."""
    paths = (folder / _SUBFOLDERS).glob(f"*/{CONFIG}")
    return sorted(path.parent.name for path in paths)


def check_chosen(adapter: str | None, model: str, folder: Path) -> None:
    """Raise `ConfigError` if a model has several adapters and none is chosen."""
    names = adapters_in(folder)
    if adapter is None and names:
        raise ConfigError(
            f"`{model}` has adapters: choose one by `adapter`, {' or '.join(map(repr, names))}, or "
            'its base model by `adapter=""`'
        )


def unsupported_fields(config: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
    """Yield the name, the value and the meaning of fields that no engine supports."""
    if config.get("peft_type") != "LORA":
        yield "peft_type", config.get("peft_type"), "only LoRA adapters are supported"
        return
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        meaning = "its training changed the base model; let PEFT convert it to plain LoRA"
        yield "init_lora_weights", start, meaning
    for field, value in config.items():
        if field not in _IMPLEMENTED | _IRRELEVANT and value:
            meaning = "it is not supported; merge the adapter by PEFT's `merge_and_unload()`"
            yield field, value, meaning

"""Types of the adapters' settings, and checks that need no loaded model."""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ValidationInfo
from typing_extensions import TypedDict

from quernstone.checkpoints.hubs import MODELSCOPE, TINY
from quernstone.embedder import check_dimensions
from quernstone.encoding.templates import AnyTemplate
from quernstone.engines.options import EngineOptions
from quernstone.errors import ConfigError
from quernstone.types import DEVICES, Dtype, EngineName

if TYPE_CHECKING:
    import torch

_SIZES = {
    TINY: 256,
    "Qwen/Qwen3-Embedding-0.6B": 1024,
    "Qwen/Qwen3-Embedding-4B": 2560,
    "Qwen/Qwen3-Embedding-8B": 4096,
}
_DEVICE = re.compile(r"auto|cpu(:0)?|mps(:0)?|cuda:all|cuda(:\d+)?( *, *cuda(:\d+)?)*")
_TRUNCATE = {"END": True, "NONE": False}  # as in the APIs of NVIDIA and Cohere
_MAX_LENGTH = 8192
_COUNTS = {
    "dimensions": (512, "the full size of the model"),
    "top_n": (3, "all"),
    "max_length": (_MAX_LENGTH, "the default"),
    "max_batch_tokens": (16384, "a size chosen by the free memory"),
    "k": (4, ""),
    "similarity_top_k": (4, ""),
    "candidates": (40, "four times as many as are wanted"),
    "prefetch": (200, "twenty times as many as are fetched"),
    "per_document": (1, "no limit"),
    "group_size": (3, "1"),
    "fetch_k": (20, "four times as many as are chosen, at least 20"),
}
"""An example and the meaning of None, for each setting."""


def _path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _device(value: object) -> object:
    if value is None:
        return "auto"
    if hasattr(value, "type") and hasattr(value, "index"):  # a torch.device
        value = str(value)
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ValueError(f"unknown device {value!r}; use {DEVICES}")
    return value


def _dtype(value: object) -> object:
    return "auto" if value is None else str(value).removeprefix("torch.")


def _whole(value: Any) -> int | None:
    """Convert a whole number, numpy integer or numeric string to int; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        return None
    try:
        return int(value) if isinstance(value, (str, float)) else operator.index(value)
    except (TypeError, ValueError):
        return None


def check_count(name: str, value: object) -> int:
    """Return the value of a setting as an int.

    Raises:
        ConfigError: The value is not a whole number, or is below 1.
    """
    number = _whole(value)
    if number is None or number < 1:
        example, none = _COUNTS[name]
        raise ConfigError(
            f"`{name}` is {value!r}; pass a whole number of at least 1, such as {example}"
            f"{none and f', or None for {none}'}"
        )
    return number


def check_fraction(name: str, value: Any) -> float | None:
    """Return the value of a setting as a float, or None.

    Raises:
        ConfigError: The value is neither None nor a number from 0 to 1.
    """
    try:
        if value is None or (not isinstance(value, bool) and 0 <= float(value) <= 1):
            return None if value is None else float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"`{name}` is {value!r}; it must be a number from 0 to 1")


def _count(value: object, info: ValidationInfo) -> int | None:
    return None if value is None else check_count(str(info.field_name), value)


def _max_length(value: object, info: ValidationInfo) -> int:
    return _count(value, info) or _MAX_LENGTH


def _threshold(value: Any, info: ValidationInfo) -> object:
    try:
        if value is None or (not isinstance(value, bool) and 0 <= float(value) <= 1):
            return value
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"`{info.field_name}` is {value!r}; pass a probability from 0 to 1, such as 0.5, or None "
        "to keep all"
    )


def _truncate(value: object) -> object:
    if isinstance(value, str) and value.upper() == "START":
        raise ValueError("texts are cut at the end, never at the start: pass True, or False")
    return _TRUNCATE.get(value.upper(), value) if isinstance(value, str) else value


ModelName = Annotated[str, BeforeValidator(_path)]
"""A hub id or a folder; a `Path` is accepted as well."""
Folder = Annotated[str | None, BeforeValidator(_path)]
"""A folder; a `Path` is accepted as well."""
Device = Annotated[str, BeforeValidator(_device)]
"""A device or a list of GPUs; a `torch.device` is accepted as well, and None is `auto`."""
DtypeName = Annotated[Dtype, BeforeValidator(_dtype)]
"""The name of a dtype; a `torch.dtype` is accepted as well, and None is `auto`."""
MaxLength = Annotated[int, BeforeValidator(_max_length)]
"""A number of tokens; None is the default."""
Truncate = Annotated[bool, BeforeValidator(_truncate)]
"""True or False; `END` and `NONE`, as in NVIDIA's and Cohere's APIs, are accepted as well."""
Count = Annotated[int | None, BeforeValidator(_count)]
"""A number of at least 1, or None."""
Whole = Annotated[int, BeforeValidator(_count)]
"""A number of at least 1."""
Threshold = Annotated[float | None, BeforeValidator(_threshold)]
"""A probability, or None."""


class ModelSettings(TypedDict, total=False):
    """Arguments of all adapters, for type checkers."""

    model: str | os.PathLike[str]
    model_name: str | os.PathLike[str]
    engine: EngineName
    device: str | torch.device | None
    dtype: Dtype | torch.dtype | None
    instruction: str | None
    max_length: int | None
    truncate: bool
    max_batch_tokens: int | None
    deterministic: bool
    revision: str | None
    adapter: str | None
    cache_folder: str | os.PathLike[str] | None
    engine_options: EngineOptions
    show_progress: bool


class EmbedderSettings(ModelSettings, total=False):
    """Arguments of embedding models."""

    dimensions: int | None


class RerankerSettings(ModelSettings, total=False):
    """Arguments of rerankers and cross-encoders."""

    template: AnyTemplate | None
    prefix_sharing: bool


def with_model(model: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor whose model may be positional.

    Raises:
        TypeError: The model was passed twice.
    """
    if model is None:
        return dict(settings)
    if "model" in settings or "model_name" in settings:
        raise TypeError("the model was passed twice: by position and by name")
    return {"model": model, **settings}


def check_size(dimensions: int | None, model: str, engine: str) -> None:
    """Check `dimensions`, if the full size of the model is known without loading it.

    Raises:
        ConfigError: `dimensions` is out of the range that the model supports.
    """
    size = None if engine == "remote" else _size_of(model)
    if size is not None:
        check_dimensions(dimensions, size)


def _size_of(model: str) -> int | None:
    """Return the length of a model's full vectors, or None if it is unknown before loading."""
    known = _SIZES.get(model.removeprefix(MODELSCOPE))
    if known is not None:
        return known
    folder = Path(model).expanduser()
    if any((folder / name).exists() for name in ("modules.json", "adapter_config.json")):
        return None  # dense layers or an adapter may change it
    try:
        size = json.loads((folder / "config.json").read_text()).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None  # not a folder, or damaged: loading the model raises the error
    return size if isinstance(size, int) else None

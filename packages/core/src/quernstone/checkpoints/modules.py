"""Read the modules of a sentence-transformers model: pooling and dense layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from quernstone.checkpoints.files import read_json, read_modules

Pooling = Literal["lasttoken", "mean", "cls"]
"""The pooling of the torch engine, with the names of sentence-transformers."""

_POOLINGS = {"lasttoken": "lasttoken", "mean": "mean", "mean_tokens": "mean", "cls": "cls",
             "cls_token": "cls"}  # fmt: skip

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Activations of dense layers that the torch engine supports, as named in `torch.nn`."""


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """The configuration of a `Dense` module."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """The name of a class in `torch.nn`."""


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of a model; empty if it lists none."""

    types: tuple[str, ...]
    """The full name of each module's class."""
    pooling: str | None
    """The kinds of pooling, joined by `+`; for the torch engine, one of `Pooling`. None without a
    pooling module."""
    dense: tuple[DenseConfig, ...]
    """The dense layers in order."""

    @property
    def normalizes(self) -> bool:
        """True if vectors have length 1, as they do without a list of modules."""
        return not self.types or any(name.endswith(".Normalize") for name in self.types)

    @property
    def own_pooling(self) -> Pooling:
        """The pooling for the torch engine; `lasttoken` if the files name none."""
        return cast("Pooling", self.pooling or "lasttoken")


def read_module_files(folder: Path) -> Modules:
    """Read `modules.json` and the configuration of the modules.

    Raises:
        ModelLoadError: A file is missing or damaged.
    """
    listed = read_modules(folder)
    types = tuple(str(module.get("type")) for module in listed)
    return Modules(types, _read_pooling(folder), tuple(_dense(folder, listed)))


def _read_pooling(folder: Path) -> str | None:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    if "pooling_mode" in config:  # sentence-transformers 6
        stored = config["pooling_mode"]
        modes = [stored] if isinstance(stored, str) else list(map(str, stored))
    else:
        on = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True]
        modes = [mode for mode in on if mode != "include_prompt"]
    named = "+".join(_POOLINGS.get(mode, mode) for mode in modes)
    if named == "mean" and config.get("include_prompt") is False:
        return "mean without the prompt"
    return named or None


def _dense(folder: Path, listed: Sequence[Mapping[str, object]]) -> Iterator[DenseConfig]:
    for module in listed:
        if str(module.get("type")).rpartition(".")[2] == "Dense":
            config = read_json(folder / str(module["path"]) / "config.json")
            activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
            yield DenseConfig(
                str(module["path"]),
                int(config["in_features"]),
                int(config["out_features"]),
                bool(config.get("bias", True)),
                activation.rpartition(".")[2],
            )

"""Merge a LoRA adapter into the weights of its base model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quernstone.checkpoints.adapters import Adapter
from quernstone.errors import ModelLoadError

_PREFIX = "base_model.model."
_PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",  # older versions of PEFT
}
"""Ends of tensor names -> fields of `_Update`."""


@dataclass(slots=True)
class _Update:
    """The change of one weight matrix: `b @ a`, scaled."""

    module: str
    """Its name in the trained model, which patterns are matched with."""
    is_embedding: bool = False
    parts: dict[str, Tensor] = field(default_factory=dict)


class LoraWeights:
    """The tensors of an adapter, by the names of the weights that they change.

    Names are those of the base model without a leading `model.`.
    """

    def __init__(self, adapter: Adapter) -> None:
        """Read the tensors.

        Raises:
            ModelLoadError: The file is damaged, or holds tensors of another kind.
        """
        self._path = adapter.weights
        self._config = adapter.config
        self._updates: dict[str, _Update] = {}
        self._replaced: dict[str, Tensor] = {}
        try:
            tensors = load_file(adapter.weights)
        except (SafetensorError, OSError) as error:
            msg = f"`{adapter.weights}` cannot be read as safetensors: {error}"
            raise ModelLoadError(msg) from error
        for name, tensor in tensors.items():
            self._add(name.removeprefix(_PREFIX), tensor)
        for name, update in self._updates.items():
            if not {"a", "b"} <= update.parts.keys():
                raise ModelLoadError(f"`{self._path}` holds half of an update of `{name}`")
            if update.is_embedding and "magnitude" in update.parts:
                msg = f"`{self._path}`: `use_dora` of the embedding `{name}` is not supported"
                raise ModelLoadError(msg)

    @property
    def names(self) -> frozenset[str]:
        """The weights that the adapter changes."""
        return frozenset((*self._updates, *self._replaced))

    def check_names(self, known: Iterable[str]) -> None:
        """Raise `ModelLoadError` if the adapter changes a weight that the model does not have."""
        unknown = sorted(self.names.difference(known))
        if unknown:
            raise ModelLoadError(
                f"`{self._path}` changes {len(unknown)} weights that its base model does not "
                f"have, such as `{unknown[0]}`: it belongs to another model"
            )

    def merged(
        self, name: str, weight: Tensor, rows: Sequence[int] | None = None, *, conv1d: bool = False
    ) -> Tensor:
        """Return a weight with the adapter's change, in float32; itself if there is none.

        Args:
            name: The name of the weight.
            weight: The weight of the base model. Shape: (outputs, inputs)
            rows: The rows of the stored matrix that `weight` holds; None for all.
            conv1d: True if the stored matrix is transposed, as in GPT-2.

        Raises:
            ModelLoadError: The shapes do not fit.
        """
        chosen = slice(None) if rows is None else list(rows)
        new = self._replaced.get(name)
        if new is not None:
            self._check(name, tuple(new[chosen].shape), tuple(weight.shape))
            weight = new[chosen].float()
        update = self._updates.get(name)
        if update is None:
            return weight
        a, b = update.parts["a"].float(), update.parts["b"].float()
        scale = self._scale(update.module, len(a))
        change = (b @ a).T if update.is_embedding or conv1d else b[chosen] @ a
        if update.is_embedding:
            change = change[chosen]
        self._check(name, tuple(change.shape), tuple(weight.shape))
        total: Tensor = weight.float() + scale * change.to(weight.device)
        magnitude = update.parts.get("magnitude")
        if magnitude is None:
            return total
        lengths = torch.linalg.norm(total, dim=0 if conv1d else 1, keepdim=True)
        wanted = magnitude.float().flatten()[chosen].to(total.device)
        scaled: Tensor = total * (wanted.reshape(lengths.shape) / lengths)
        return scaled

    def _add(self, name: str, tensor: Tensor) -> None:
        for end, part in _PARTS.items():
            if name.endswith(f".{end}"):
                module = name.removesuffix(f".{end}")
                update = self._updates.setdefault(f"{_plain(module)}.weight", _Update(module))
                update.is_embedding |= end.startswith("lora_embedding")
                update.parts[part] = tensor
                return
        if "lora_" in name or "trainable_tokens" in name:
            raise ModelLoadError(f"`{self._path}` holds `{name}`, which is not supported")
        self._replaced[_plain(name).replace(".base_layer.", ".")] = tensor

    def _scale(self, module: str, rank: int) -> float:
        config = self._config
        expected = _by_pattern(config.get("rank_pattern"), module, config.get("r"))
        if expected != rank:
            raise ModelLoadError(
                f"`{self._path}`: the update of `{module}` has rank {rank}, and the configuration "
                f"asks for {expected}"
            )
        alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def _check(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise ModelLoadError(
                f"`{self._path}`: the update of `{name}` has shape {found}, and the base model's "
                f"weight has {expected}: it belongs to another model"
            )


def _plain(name: str) -> str:
    return name.removeprefix("model.")


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first regular expression that matches the end of a module's name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def merge_into(model: Any, adapter: Adapter) -> None:
    """Merge an adapter into the parameters of a library's model, in place.

    Raises:
        ModelLoadError: The adapter does not fit, or changes a weight that two modules share.
    """
    weights = LoraWeights(adapter)
    prefix = f"{getattr(model, 'base_model_prefix', 'model')}."
    parameters = {name.removeprefix(prefix): name for name, _ in model.named_parameters()}
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    shared = head is not None and head.weight is model.get_input_embeddings().weight
    ignored = set() if head is not None else {"lm_head.weight"}
    weights.check_names({*parameters, *ignored})
    for name in weights.names - ignored:
        parameter = model.get_parameter(parameters[name])
        if shared and parameter is head.weight:
            raise ModelLoadError(
                f"`{adapter.weights}` changes `{name}`, which the base model uses as its output "
                "head as well; the torch engine keeps them apart"
            )
        module = model.get_submodule(parameters[name].rpartition(".")[0])
        is_conv1d = type(module).__name__ == "Conv1D"
        new = weights.merged(name, parameter.data, conv1d=is_conv1d)
        parameter.data = new.to(parameter.dtype)

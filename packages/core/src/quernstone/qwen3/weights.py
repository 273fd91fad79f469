"""Read a checkpoint's weights, after checking that they fit its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quernstone.checkpoints.adapters import Adapter
from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.checkpoints.files import weight_files
from quernstone.errors import ModelLoadError
from quernstone.qwen3.decoder import (
    MLP,
    AnyLinear,
    Attention,
    CpuLinear,
    DecoderLayer,
    LastAttention,
    MergedMLP,
    Qwen3,
    RMSNorm,
    Rotation,
)
from quernstone.qwen3.elementwise import Elementwise
from quernstone.qwen3.fixed import FixedLinear
from quernstone.qwen3.fp8 import Fp8Linear
from quernstone.qwen3.int8 import Int8Linear
from quernstone.qwen3.linear import BiasedLinear, Linear
from quernstone.qwen3.lora import LoraWeights
from quernstone.qwen3.weight_only import WeightOnlyLinear

_Shape = tuple[int, ...]


def load_qwen3(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    head_rows: Sequence[int] = (),
    rounding: Literal["int8", "fp8"] | None = None,
    elementwise: Elementwise | None = None,
    fixed: bool = False,
    adapter: Adapter | None = None,
) -> tuple[Qwen3, Tensor]:
    """Read a checkpoint in any layout of the six official ones.

    Embedding checkpoints name tensors without `model.`, rerankers with it; large ones are sharded;
    the output head is stored, or tied to the embedding.

    Args:
        folder: Holds the weights, which must fit `config`.
        config: Read from the same folder.
        device: Where to put the weights.
        dtype: What to convert them to.
        head_rows: Token ids, or labels of a classification head, whose rows of the head to read.
            Shape: (rows, hidden)
        rounding: Round the matrices of the layers: to int8, or on a GPU to fp8.
        elementwise: Kernels of a GPU; None on a CPU.
        fixed: Let rows of products not depend on each other, on a GPU and without `rounding`.
        adapter: Merged into the weights in float32, before they are converted.
    """
    with ExitStack() as stack:
        tensors = _Tensors(folder, stack, device, dtype, adapter)
        tied = config.tie_word_embeddings and not config.labels
        head_stored = bool(head_rows) and not tied
        expected = _expected_shapes(config, with_head=head_stored)
        _check(folder, tensors.shapes(), expected)
        tensors.check_adapter(expected)
        build = _Builder(tensors, config, rounding, elementwise, fixed=fixed)
        embed_tokens = tensors.read("embed_tokens.weight")
        last = config.num_hidden_layers - 1
        model = Qwen3(
            config,
            embed_tokens,
            [build.layer(f"layers.{index}.") for index in range(last)],
            (build.last_layer if config.pooling == "lasttoken" else build.layer)(f"layers.{last}."),
            build.norm("norm.weight"),
        )
        head = embed_tokens[:0]
        if head_stored:
            head = tensors.read_rows(_head_name(config), head_rows)
        elif head_rows:
            # Not the rows of `embed_tokens`, which an adapter may have changed.
            head = tensors.read_rows("embed_tokens.weight", head_rows, use="lm_head.weight")
    return model, head


class _Tensors:
    """The tensors of a checkpoint by name, without a leading `model.`."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        device: torch.device,
        dtype: torch.dtype,
        adapter: Adapter | None,
    ) -> None:
        self._device, self._dtype = device, dtype
        self._lora = LoraWeights(adapter) if adapter else None
        self._stored: dict[str, tuple[Any, str]] = {}  # the open file, and the name in it
        for path in weight_files(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                names = list(file.keys())
            except FileNotFoundError as error:
                msg = f"`{path}` is missing: the index of this model names it as one of its shards"
                raise ModelLoadError(msg) from error
            except (SafetensorError, OSError) as error:
                raise ModelLoadError(f"`{path}` cannot be read as safetensors: {error}") from error
            self._stored.update({name.removeprefix("model."): (file, name) for name in names})

    def shapes(self) -> dict[str, _Shape]:
        return {
            name: tuple(file.get_slice(stored_name).get_shape())
            for name, (file, stored_name) in self._stored.items()
        }

    def check_adapter(self, expected: Iterable[str]) -> None:
        if self._lora is not None:
            self._lora.check_names((*expected, "lm_head.weight"))

    def read(self, name: str) -> Tensor:
        file, stored_name = self._stored[name]
        return self._merged(name, cast("Tensor", file.get_tensor(stored_name)))

    def read_rows(self, name: str, rows: Sequence[int], *, use: str = "") -> Tensor:
        """Read rows of a matrix that is used as the weight `use`, by default its own name."""
        file, stored_name = self._stored[name]
        matrix = file.get_slice(stored_name)
        found = torch.stack([matrix[row : row + 1][0] for row in rows])
        return self._merged(use or name, found, rows)

    def _merged(self, name: str, weight: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        if self._lora is not None:
            weight = self._lora.merged(name, weight, rows)
        return weight.to(self._device, self._dtype)


class _Builder:
    """Builds the modules of the decoder. `at` is the prefix of a layer's tensors."""

    def __init__(
        self,
        tensors: _Tensors,
        config: ModelConfig,
        rounding: Literal["int8", "fp8"] | None,
        elementwise: Elementwise | None,
        *,
        fixed: bool,
    ) -> None:
        self._read, self._config = tensors.read, config
        self._rounding, self._elementwise, self._fixed = rounding, elementwise, fixed

    def layer(self, at: str) -> DecoderLayer[Attention]:
        config = self._config
        heads = [("q", config.num_attention_heads), ("k", config.num_key_value_heads)]
        attention = Attention(
            config,
            qkv_proj=self._proj(f"{at}self_attn.", *"qkv"),
            o_proj=self._proj(f"{at}self_attn.", "o"),
            qk_norm=self._heads_norm(at, heads),
        )
        input_norm, post_norm = self._layer_norms(at)
        return DecoderLayer(input_norm, attention, post_norm, self._mlp(at))

    def last_layer(self, at: str) -> DecoderLayer[LastAttention]:
        config = self._config
        attention = LastAttention(
            config,
            q_proj=self._proj(f"{at}self_attn.", "q"),
            kv_proj=self._proj(f"{at}self_attn.", *"kv"),
            o_proj=self._proj(f"{at}self_attn.", "o"),
            q_norm=self._heads_norm(at, [("q", config.num_attention_heads)]),
            k_norm=self._heads_norm(at, [("k", config.num_key_value_heads)]),
        )
        input_norm, post_norm = self._layer_norms(at)
        return DecoderLayer(input_norm, attention, post_norm, self._mlp(at))

    def norm(self, name: str) -> RMSNorm:
        return self._rms_norm(self._read(name))

    def _layer_norms(self, at: str) -> Iterator[RMSNorm]:
        return (self.norm(f"{at}{name}_layernorm.weight") for name in ("input", "post_attention"))

    def _rms_norm(self, weight: Tensor) -> RMSNorm:
        return RMSNorm(weight, self._config.rms_norm_eps, self._elementwise)

    def _mlp(self, at: str) -> MLP | MergedMLP:
        at += "mlp."
        down_proj = self._proj(at, "down")
        if self._elementwise is not None:
            return MergedMLP(self._proj(at, "gate", "up"), down_proj, self._elementwise)
        gate_proj, up_proj = (self._proj(at, name) for name in ("gate", "up"))
        return MLP(cast("CpuLinear", gate_proj), cast("CpuLinear", up_proj), down_proj)

    def _proj(self, at: str, *names: str) -> AnyLinear:
        """Merge projections of the same input into one."""
        kinds = ("weight", "bias") if _has_biases(self._config, names[0]) else ("weight",)
        weight, *bias = (
            torch.cat([self._read_proj(at, name, kind) for name in names]) for kind in kinds
        )
        return self._linear(weight, *bias)

    def _read_proj(self, at: str, name: str, kind: str) -> Tensor:
        tensor = self._read(f"{at}{name}_proj.{kind}")
        return _interleave(tensor, self._config.head_dim) if name in ("q", "k") else tensor

    def _linear(self, weight: Tensor, bias: Tensor | None = None) -> AnyLinear:
        linear: Linear | Int8Linear | Fp8Linear | WeightOnlyLinear | FixedLinear
        if self._elementwise is not None and self._rounding is not None:
            linear = Fp8Linear(weight) if self._rounding == "fp8" else WeightOnlyLinear(weight)
        else:
            linear = Int8Linear(weight) if self._rounding == "int8" else Linear(weight)
        if self._fixed:
            linear = FixedLinear(weight)
        return linear if bias is None else BiasedLinear(linear, bias)

    def _heads_norm(self, at: str, heads: Sequence[tuple[str, int]]) -> RMSNorm | Rotation:
        """Return the norm of queries ("q") or keys ("k") and the number of their heads."""
        if not self._config.qk_norm:
            return Rotation(self._elementwise)
        weights = [
            _interleave(
                self._read(f"{at}self_attn.{name}_norm.weight"), self._config.head_dim
            ).repeat(count, 1)
            for name, count in heads
        ]
        return self._rms_norm(torch.cat(weights))


def _interleave(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the outputs of each head to 0, half, 1, half + 1, ..."""
    halves: Tensor = weight.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def _expected_shapes(config: ModelConfig, *, with_head: bool) -> dict[str, _Shape]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    layer: dict[str, _Shape] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        **({f"self_attn.{name}_norm.weight": (dim,) for name in "qk"} if config.qk_norm else {}),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    for name, (outputs, *_) in list(layer.items()):
        part, projects, _ = name.partition("_proj.weight")
        if projects and _has_biases(config, part.rpartition(".")[2]):
            layer[f"{part}_proj.bias"] = (outputs,)
    vocabulary = (config.vocab_size, hidden)
    return {
        "embed_tokens.weight": vocabulary,
        "norm.weight": (hidden,),
        **({_head_name(config): (config.labels or config.vocab_size, hidden)} if with_head else {}),
        **{
            f"layers.{index}.{name}": shape
            for index in range(config.num_hidden_layers)
            for name, shape in layer.items()
        },
    }


def _has_biases(config: ModelConfig, name: str) -> bool:
    """Return True if a projection has biases: `q`, `k`, `v`, `o`, `gate`, `up` or `down`."""
    if name == "o":
        return config.o_bias
    return config.qkv_bias if name in ("q", "k", "v") else config.mlp_bias


def _head_name(config: ModelConfig) -> str:
    return "score.weight" if config.labels else "lm_head.weight"


def _check(folder: Path, stored: dict[str, _Shape], expected: dict[str, _Shape]) -> None:
    missing = [name for name in expected if name not in stored]
    # Checkpoints may store a head even if it is tied, or not needed; old ones store frequencies.
    ignored = ("lm_head.weight", "rotary_emb.inv_freq")
    unexpected = [name for name in stored if name not in expected and not name.endswith(ignored)]
    groups = (("missing", missing), ("unexpected", unexpected))
    problems = [f"{kind} {_listed(names)}" for kind, names in groups if names]
    problems += [
        f"`{name}` has shape {stored[name]}, `config.json` asks for {shape}"
        for name, shape in expected.items()
        if stored.get(name, shape) != shape
    ]
    if problems:
        msg = f"the weights in `{folder}` do not fit its `config.json`: {'; '.join(problems[:5])}"
        raise ModelLoadError(msg)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

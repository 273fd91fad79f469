"""The reading of a checkpoint's weights, which refuses what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.errors import ModelLoadError
from quernstone.qwen3.decoder import Layer, Product, Qwen3
from quernstone.qwen3.elementwise import Elementwise
from quernstone.qwen3.fp8 import Fp8Linear
from quernstone.qwen3.int8 import Int8Linear
from quernstone.qwen3.linear import Linear
from quernstone.qwen3.mlp import JointProduct, SeparateProducts


def load_qwen3(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    head_rows: Sequence[int] = (),
    rounding: Literal["int8", "fp8"] | None = None,
    elementwise: Elementwise | None = None,
) -> tuple[Qwen3, Tensor]:
    """Read a checkpoint of one of the six official layouts.

    Embedding checkpoints name tensors without `model.`, rerankers with it; large ones are sharded;
    the output head is stored, or tied to the embedding.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and its shards.
        config: Read from the same folder.
        device: Where to put the weights.
        dtype: What to convert them to.
        head_rows: Token ids whose rows of the output head are wanted.
        rounding: What to round the matrices of the layers to: int8 on a CPU, fp8 on a GPU.
        elementwise: The steps of a GPU; None for a CPU, which has its own.

    Returns:
        The decoder, and the rows of the head in the order of `head_rows`. Shape: (rows, hidden)

    Raises:
        ModelLoadError: A tensor is missing, unexpected, or has another shape than the
            configuration says; or a file is missing or damaged.
    """
    with ExitStack() as stack:
        tensors = _open(folder, stack)
        head_stored = bool(head_rows) and not config.tie_word_embeddings
        _check(folder, tensors, _expected_shapes(config, with_head=head_stored))

        def read(name: str) -> Tensor:
            opened, stored_name = tensors[name]
            tensor: Tensor = opened.get_tensor(stored_name)
            return tensor.to(device, dtype)

        def product(*weights: Tensor) -> Product:
            weight = torch.cat(weights)
            if rounding == "fp8" and elementwise is not None:
                return Fp8Linear(weight, elementwise.round_to_fp8)
            return Int8Linear(weight) if rounding == "int8" else Linear(weight)

        def gate_up(at: str) -> SeparateProducts | JointProduct:
            gate, up = (read(f"{at}mlp.{part}_proj.weight") for part in ("gate", "up"))
            if elementwise is not None:
                return JointProduct(product(gate, up), elementwise)
            kind = Int8Linear if rounding == "int8" else Linear
            return SeparateProducts(kind(gate), kind(up))

        def projection(at: str, part: str) -> Tensor:
            weight = read(f"{at}self_attn.{part}_proj.weight")
            return weight if part == "v" else _interleaved(weight, config.head_dim)

        def head_norm(at: str, part: str, count: int) -> Tensor:
            weight = read(f"{at}self_attn.{part}_norm.weight")
            return _interleaved(weight, config.head_dim).expand(count, -1)

        embedding = read("embed_tokens.weight")
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        layers = []
        last = config.num_hidden_layers - 1
        for index in range(config.num_hidden_layers):
            at = f"layers.{index}."
            parts = "kv" if index == last else "qkv"
            layers.append(
                Layer(
                    input_norm=read(at + "input_layernorm.weight"),
                    qkv=product(*(projection(at, part) for part in parts)),
                    qk_norm=torch.cat([head_norm(at, "q", heads), head_norm(at, "k", kv_heads)]),
                    output=product(read(at + "self_attn.o_proj.weight")),
                    mlp_norm=read(at + "post_attention_layernorm.weight"),
                    gate_up=gate_up(at),
                    down=product(read(at + "mlp.down_proj.weight")),
                )
            )
        last_query = product(projection(f"layers.{last}.", "q"))
        model = Qwen3(config, embedding, layers, last_query, read("norm.weight"), elementwise)
        if head_stored:
            opened, stored_name = tensors["lm_head.weight"]
            rows = opened.get_slice(stored_name)
            head = torch.stack([rows[row : row + 1][0] for row in head_rows]).to(device, dtype)
        else:
            head = embedding[list(head_rows)].clone()
    return model, head


def _interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """The outputs of each head in the order 0, half, 1, half + 1, ..."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))
    interleaved: Tensor = halves.transpose(1, 2).flatten(0, 2)
    return interleaved


_Tensors = Mapping[str, tuple[Any, str]]
"""Our name of a tensor -> the open safetensors file, and its name there."""


def _open(folder: Path, stack: ExitStack) -> _Tensors:
    tensors: dict[str, tuple[Any, str]] = {}
    for path in _weight_files(folder):
        try:
            opened = stack.enter_context(safe_open(path, framework="pt"))
            names = list(opened.keys())
        except FileNotFoundError as error:
            msg = f"`{path}` is missing: the index of this model names it as one of its shards"
            raise ModelLoadError(msg) from error
        except (SafetensorError, OSError) as error:
            msg = f"`{path}` cannot be read as safetensors: {error}"
            raise ModelLoadError(msg) from error
        for name in names:
            tensors[name.removeprefix("model.")] = (opened, name)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        weight_map = orjson.loads(index.read_bytes())["weight_map"]
        return [folder / name for name in sorted(set(weight_map.values()))]
    msg = (
        f"`{folder}` holds neither `model.safetensors` nor `model.safetensors.index.json`; "
        "weights in other formats are not read"
    )
    raise ModelLoadError(msg)


def _expected_shapes(config: ModelConfig, *, with_head: bool) -> dict[str, tuple[int, ...]]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (config.vocab_size, hidden),
        "norm.weight": (hidden,),
    }
    if with_head:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.num_hidden_layers):
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (key, hidden),
            "self_attn.v_proj.weight": (key, hidden),
            "self_attn.q_norm.weight": (dim,),
            "self_attn.k_norm.weight": (dim,),
            "self_attn.o_proj.weight": (hidden, query),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        shapes.update({f"layers.{index}.{name}": shape for name, shape in layer.items()})
    return shapes


def _check(folder: Path, tensors: _Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    def problems() -> Iterator[str]:
        missing = [name for name in expected if name not in tensors]
        if missing:
            yield f"missing {_some(missing)}"
        # a head that is tied, or that nobody asked for, may be stored all the same
        unexpected = [name for name in tensors if name not in expected and name != "lm_head.weight"]
        if unexpected:
            yield f"unexpected {_some(unexpected)}"
        for name, shape in expected.items():
            if name in tensors:
                opened, stored_name = tensors[name]
                found = tuple(opened.get_slice(stored_name).get_shape())
                if found != shape:
                    yield f"`{name}` has shape {found}, `config.json` asks for {shape}"

    found = list(problems())
    if found:
        msg = f"the weights in `{folder}` do not fit its `config.json`: {'; '.join(found[:5])}"
        raise ModelLoadError(msg)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

"""The Qwen3 decoder over packed sequences, and the reading of its weights.

Checked against transformers' `modeling_qwen3.py` in `tests/core/test_reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quernstone.attention import BatchAttention, PrefixKeys
from quernstone.batching import PackedBatch
from quernstone.elementwise import Elementwise
from quernstone.errors import ModelLoadError
from quernstone.fp8 import Fp8Linear
from quernstone.int8 import Int8Linear
from quernstone.linear import Linear
from quernstone.mlp import JointProduct, SeparateProducts
from quernstone.models import ModelConfig

# Element-wise work in float32 on this many numbers at a time stays in the cache of most CPUs.
_CPU_BLOCK = 1 << 21

Product = Linear | Int8Linear | Fp8Linear

LayerPrefixes = list[PrefixKeys]
"""One prefix: its keys and values, layer by layer."""


class Inputs(NamedTuple):
    """A batch on the device. What is computed for rows that only fill it up is never read."""

    ids: Tensor
    """Shape: (tokens,)"""
    positions: Tensor
    """Shape: (tokens,)"""
    ends: Tensor
    """The last token of each sequence. Shape: (sequences,)"""


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    input_norm: Tensor
    qkv: Product
    """Queries, keys and values in one product. The last layer has keys and values only: it needs
    the queries of few tokens, and has them from `Qwen3`'s `last_query`."""
    qk_norm: Tensor
    """One row for each query head, then one for each key head. Shape: (heads + kv heads, dim)

    The two halves of a head, which RoPE rotates against each other, are interleaved here as they
    are in the outputs of the queries' and keys' matrices: pairs of neighbours are complex numbers.
    """
    output: Product
    mlp_norm: Tensor
    gate_up: SeparateProducts | JointProduct
    down: Product


class Qwen3:
    """The decoder without its output head."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        layers: list[Layer],
        last_query: Product,
        norm: Tensor,
        elementwise: Elementwise | None = None,
    ) -> None:
        self.config = config
        self._elementwise = elementwise
        self.embedding = embedding
        self._layers = layers
        self._last_query = last_query
        self._norm = norm
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self._inverse_frequencies = (config.rope_theta**-exponent).to(embedding.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def pooled(
        self,
        inputs: Inputs,
        attention: BatchAttention,
        prefixes: Sequence[LayerPrefixes],
        dtype: torch.dtype,
    ) -> Tensor:
        """The final hidden state of each sequence's last token.

        Nothing here waits for the device, or sends anything to it.

        Args:
            inputs: The packed sequences.
            attention: Made for their batch.
            prefixes: One for each of the batch's groups.
            dtype: To compute in; weights of another dtype are converted matrix by matrix.

        Returns:
            Shape: (sequences, hidden)
        """
        x, rope = self._start(inputs, dtype)
        for index, layer in enumerate(self._layers[:-1]):
            query, key, value = self._qkv(layer, x, rope)
            shared = [prefix[index] for prefix in prefixes]
            x = self._finish(layer, x, attention.all_tokens(query, key, value, shared))
        layer, shared, ends = self._layers[-1], [prefix[-1] for prefix in prefixes], inputs.ends
        normed = self._rms_norm(x, layer.input_norm)
        key, value = self._last_key_value(normed, rope)
        query = self._last_queries(normed[ends], rope[ends])
        x = self._finish(layer, x[ends], attention.last_tokens(query, key, value, shared))
        return self._rms_norm(x, self._norm)

    def prefix_keys(
        self,
        batch: PackedBatch,
        inputs: Inputs,
        attention: BatchAttention,
        prefixes: Sequence[LayerPrefixes],
        dtype: torch.dtype,
    ) -> list[LayerPrefixes]:
        """Keys and values of every sequence in every layer, to be shared as prefixes.

        A sequence that has a prefix in its turn is returned with it. Arguments as in `pooled`;
        `inputs` are those of `batch`.
        """
        x, rope = self._start(inputs, dtype)
        sequences: list[LayerPrefixes] = [[] for _ in batch.order]
        parents: list[LayerPrefixes | None] = [None for _ in batch.order]
        for (_, first, end), prefix in zip(batch.groups, prefixes, strict=True):
            parents[first:end] = [prefix] * (end - first)

        def keep(key: Tensor, value: Tensor) -> None:
            bounds = zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
            for sequence, parent, (start, end) in zip(sequences, parents, bounds, strict=True):
                own = PrefixKeys(key[start:end], value[start:end])
                sequence.append(own.copy() if parent is None else parent[len(sequence)].then(own))

        for index, layer in enumerate(self._layers[:-1]):
            query, key, value = self._qkv(layer, x, rope)
            keep(key, value)
            shared = [prefix[index] for prefix in prefixes]
            x = self._finish(layer, x, attention.all_tokens(query, key, value, shared))
        keep(*self._last_key_value(self._rms_norm(x, self._layers[-1].input_norm), rope))
        return sequences

    def _start(self, inputs: Inputs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The embeddings, and the complex numbers that rotate by each token's position."""
        positions = inputs.positions.to(torch.float32)
        angles = torch.outer(positions, self._inverse_frequencies)[:, None, :]
        rope = torch.polar(torch.ones_like(angles), angles)
        return F.embedding(inputs.ids, self.embedding).to(dtype), rope

    def _qkv(self, layer: Layer, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        qkv = layer.qkv(self._rms_norm(x, layer.input_norm))
        qkv = qkv.unflatten(1, (-1, self.config.head_dim))
        qk, value = qkv.split([heads + kv_heads, kv_heads], 1)
        qk = self._rms_norm(qk, layer.qk_norm, rope)
        query, key = qk.split([heads, kv_heads], 1)
        return query, key, value

    def _last_key_value(self, normed: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        layer, heads = self._layers[-1], self.config.num_attention_heads
        key, value = layer.qkv(normed).unflatten(1, (-1, self.config.head_dim)).chunk(2, 1)
        return self._rms_norm(key, layer.qk_norm[heads:], rope), value

    def _last_queries(self, normed: Tensor, rope: Tensor) -> Tensor:
        weight = self._layers[-1].qk_norm[: self.config.num_attention_heads]
        query = self._last_query(normed).unflatten(1, (-1, self.config.head_dim))
        return self._rms_norm(query, weight, rope)

    def _finish(self, layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
        """Output projection, MLP and both residuals."""
        x = layer.output.plus(attended.flatten(1), x)
        normed = self._rms_norm(x, layer.mlp_norm)
        return layer.down.plus(layer.gate_up(normed), x)

    def _rms_norm(self, x: Tensor, weight: Tensor, rope: Tensor | None = None) -> Tensor:
        """RMSNorm over the last axis, and RoPE if asked for, in float32.

        On CPUs some rows at a time; torch's own RMSNorm takes ten times as long in bfloat16.
        """
        if self._elementwise is not None:
            if rope is None:
                return self._elementwise.norm(x, weight)
            return self._elementwise.norm_and_rotate(x, weight, torch.view_as_real(rope))
        eps = self.config.rms_norm_eps
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows = min(len(x), max(1, _CPU_BLOCK // x[0].numel()))
        numbers = torch.empty(rows, *x.shape[1:], dtype=torch.float32, device=x.device)
        weight = weight.float()
        for start in range(0, len(x), rows):
            at = slice(start, start + rows)
            block = numbers[: len(x[at])].copy_(x[at])
            scale: Tensor = torch.linalg.vector_norm(block, dim=-1, keepdim=True)
            scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            block.mul_(scale).mul_(weight)
            if rope is not None:
                torch.view_as_complex(block.unflatten(-1, (-1, 2))).mul_(rope[at])
            out[at] = block
        return out


# ---------------------------------------------------------------- weights


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

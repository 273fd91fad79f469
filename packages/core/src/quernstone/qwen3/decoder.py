"""The Qwen3 decoder over packed sequences, and the decoders of its relatives.

Classes, attributes and their order follow transformers' `modeling_qwen3.py`, against which
`tests/core/qwen3/test_decoder.py` checks the results. The differences: projections that read the
same input are merged, RoPE is part of the norm of a head, and the last layer computes queries for
the last token of each sequence only. Qwen2, Llama and Mistral have `Rotation` in place of the norm
of heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.attention import (
    BatchAttention,
    PrefixKeys,
    join_source,
    joined_lengths,
    no_prefixes,
)
from quernstone.batching import PackedBatch
from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.qwen3.elementwise import Elementwise
from quernstone.qwen3.fixed import FixedLinear
from quernstone.qwen3.fp8 import Fp8Linear
from quernstone.qwen3.int8 import Int8Linear
from quernstone.qwen3.linear import BiasedLinear, Linear
from quernstone.qwen3.pooling import pool
from quernstone.qwen3.rope import frequencies
from quernstone.qwen3.weight_only import WeightOnlyLinear

CpuLinear = Linear | Int8Linear | BiasedLinear
AnyLinear = CpuLinear | Fp8Linear | WeightOnlyLinear | FixedLinear

AllKeys = Tensor
"""Keys and values of one or several prefixes, end to end, in every layer.

Shape: (tokens, layers, 2, kv heads, head_dim)."""

# Float32 blocks of this many elements fit in the cache of most CPUs.
_CPU_BLOCK = 1 << 21


class Inputs(NamedTuple):
    """A batch on the device. Results for padding rows are never read. Shape: (tokens,)."""

    ids: Tensor
    positions: Tensor
    ends: Tensor
    """Index of the last token of each sequence. Shape: (sequences,)"""
    attention: BatchAttention
    prefixes: AllKeys | None
    """Keys and values of the prefixes of the batch's groups; None without prefixes."""
    dtype: torch.dtype
    """The dtype to compute in. Weights of another dtype are converted one by one."""


class RMSNorm:
    """`Qwen3RMSNorm`, optionally followed by RoPE, in float32."""

    def __init__(self, weight: Tensor, eps: float, elementwise: Elementwise | None = None) -> None:
        """Keep the weight. Shape: (dim,), or (heads, dim) for the norm of heads."""
        self._weight, self._eps, self._elementwise = weight, eps, elementwise

    def for_product(self, x: Tensor) -> Any:
        """Normalize the last axis for a linear layer, see `Elementwise.norm_for_product`."""
        if self._elementwise is None:
            return self._in_blocks(x, None)
        return self._elementwise.norm_for_product(x, self._weight)

    def __call__(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Normalize the last axis, then rotate pairs of neighbours by the complex `rope`.

        On a GPU, a rotation is done in place.
        """
        if self._elementwise is None:
            return self._in_blocks(x, rope)
        if rope is None:
            return self._elementwise.norm(x, self._weight)
        return self._elementwise.norm_and_rotate(x, self._weight, torch.view_as_real(rope))

    def join(
        self, qkv: Tensor, rope: Tensor, source: Tensor, prefix: PrefixKeys
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize and rotate queries and keys, then join keys and values: `Elementwise.join`."""
        return _join(self._elementwise, qkv, self._weight, rope, source, prefix)

    def _in_blocks(self, x: Tensor, rope: Tensor | None) -> Tensor:
        """Process blocks of rows: torch's own RMSNorm takes ten times as long in bfloat16."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        weight = self._weight.float()
        for at, block in _float_blocks(x):
            scale: Tensor = torch.linalg.vector_norm(block, dim=-1, keepdim=True)
            scale.square_().div_(x.shape[-1]).add_(self._eps).rsqrt_()
            block.mul_(scale).mul_(weight)
            if rope is not None:
                torch.view_as_complex(block.unflatten(-1, (-1, 2))).mul_(rope[at])
            out[at] = block
        return out


class Rotation:
    """RoPE without a norm, in float32."""

    def __init__(self, elementwise: Elementwise | None = None) -> None:
        self._elementwise = elementwise

    def __call__(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotate pairs of neighbours by the complex `rope`."""
        if self._elementwise is not None:
            return self._elementwise.rotate(x, torch.view_as_real(rope))
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for at, block in _float_blocks(x):
            torch.view_as_complex(block.unflatten(-1, (-1, 2))).mul_(rope[at])
            out[at] = block
        return out

    def join(
        self, qkv: Tensor, rope: Tensor, source: Tensor, prefix: PrefixKeys
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate queries and keys, and join keys and values, see `Elementwise.join`."""
        return _join(self._elementwise, qkv, None, rope, source, prefix)


def _join(
    elementwise: Elementwise | None,
    qkv: Tensor,
    weight: Tensor | None,
    rope: Tensor,
    source: Tensor,
    prefix: PrefixKeys,
) -> tuple[Tensor, Tensor, Tensor]:
    if elementwise is None:
        raise TypeError("attention on a CPU does not get joined keys")
    return elementwise.join(qkv, weight, torch.view_as_real(rope), source, prefix)


def _float_blocks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows, and copies of them in float32 that the next block overwrites."""
    rows = min(len(x), max(1, _CPU_BLOCK // x[0].numel()))
    buffer = torch.empty(rows, *x.shape[1:], dtype=torch.float32, device=x.device)
    for start in range(0, len(x), rows):
        at = slice(start, start + rows)
        yield at, buffer[: len(x[at])].copy_(x[at])


@dataclass(frozen=True, slots=True)
class MLP:
    """`Qwen3MLP` for CPUs, where oneDNN applies SiLU and the multiplication in the projections."""

    gate_proj: CpuLinear
    up_proj: CpuLinear
    down_proj: AnyLinear

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the output plus `residual`."""
        return self.down_proj.add(self.up_proj.mul(x, self.gate_proj.silu(x)), residual)


@dataclass(frozen=True, slots=True)
class MergedMLP:
    """`Qwen3MLP` for GPUs, which run one large projection faster than two."""

    gate_up_proj: AnyLinear
    down_proj: AnyLinear
    elementwise: Elementwise

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the output plus `residual`."""
        hidden = self.elementwise.silu_and_multiply(self.gate_up_proj(x))
        return self.down_proj.add(hidden, residual)


class _KeyCollector:
    """Collector of the keys and values of sequences, with those of their prefixes, by layer."""

    def __init__(self, batch: PackedBatch, inputs: Inputs, config: ModelConfig) -> None:
        self._lengths = joined_lengths(batch).tolist()
        # Several prefixes end to end, and all layers of a token: so each sequence is contiguous.
        shape = (config.num_hidden_layers, 2, config.num_key_value_heads, config.head_dim)
        device = inputs.ids.device
        self._keys = torch.empty((sum(self._lengths), *shape), dtype=inputs.dtype, device=device)
        self._layer = 0
        self._rows: Tensor | None = None
        if batch.groups and inputs.attention.source is None:
            rows = join_source(batch).astype(np.int64)
            prefix_tokens = sum(len(prefix) for prefix, _, _ in batch.groups)
            rows = np.where(rows < 0, -1 - rows, rows + prefix_tokens)
            self._rows = torch.from_numpy(rows).to(device)

    def update(self, key: Tensor, value: Tensor, prefix: PrefixKeys | None) -> None:
        """Append the next layer. If attention takes joined keys, they include the prefixes."""
        shared = (None, None) if prefix is None else (prefix.key, prefix.value)
        for place, (own, before) in enumerate(zip((key, value), shared, strict=True)):
            if self._rows is not None and before is not None:
                own = torch.cat((before, own)).index_select(0, self._rows)
            self._keys[:, self._layer, place] = own[: len(self._keys)]
        self._layer += 1

    def sequences(self) -> list[Tensor]:
        """Copy each sequence into its own tensor, so that each can be freed separately."""
        parts = self._keys.split(self._lengths)
        if len(parts) == 1:
            return list(parts)
        copies = [torch.empty_like(part) for part in parts]
        torch._foreach_copy_(copies, parts)
        return copies


class Context(NamedTuple):
    """The inputs of every layer of a batch."""

    rope: Tensor
    """The rotation of each position, as complex numbers. Shape: (tokens, 1, head_dim / 2)"""
    ends: Tensor
    attention: BatchAttention
    cache: _KeyCollector | None
    """Collects the keys and values of all layers but the last; None to drop them."""


@dataclass(frozen=True, slots=True)
class Attention:
    """`Qwen3Attention`, with one projection for queries, keys and values.

    RoPE rotates the first half of a head against the second. `qkv_proj` and `qk_norm` have the
    two halves interleaved, so that a pair to rotate is one complex number.
    """

    config: ModelConfig
    qkv_proj: AnyLinear
    o_proj: AnyLinear
    qk_norm: RMSNorm | Rotation
    """`q_norm` for each query head, then `k_norm` for each key head."""

    def __call__(
        self, hidden_states: Tensor, residual: Tensor, context: Context, prefixes: PrefixKeys | None
    ) -> Tensor:
        """Return the output plus `residual`, for every token."""
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        qkv = self.qkv_proj(hidden_states).unflatten(1, (-1, self.config.head_dim))
        source = context.attention.source
        if source is None:
            qk, value = qkv.split_with_sizes([heads + kv_heads, kv_heads], 1)
            query, key = self.qk_norm(qk, context.rope).split_with_sizes([heads, kv_heads], 1)
        else:
            prefixes = prefixes or no_prefixes(qkv, kv_heads)
            query, key, value = self.qk_norm.join(qkv, context.rope, source, prefixes)
        if context.cache is not None:
            context.cache.update(key, value, prefixes)
        attn_output = context.attention.all_tokens(query, key, value, prefixes)
        return self.o_proj.add(attn_output.flatten(1), residual)


@dataclass(frozen=True, slots=True)
class LastAttention:
    """`Qwen3Attention` of the last layer, which needs few queries. Interleaved like `Attention`."""

    config: ModelConfig
    q_proj: AnyLinear
    kv_proj: AnyLinear
    o_proj: AnyLinear
    q_norm: RMSNorm | Rotation
    k_norm: RMSNorm | Rotation

    def __call__(
        self, hidden_states: Tensor, residual: Tensor, context: Context, prefixes: PrefixKeys | None
    ) -> Tensor:
        """Return the output plus `residual`, for the last token of each sequence."""
        key, value = self.kv(hidden_states, context, prefixes)
        ends = context.ends
        query = self.q_proj(hidden_states[ends]).unflatten(1, (-1, self.config.head_dim))
        query = self.q_norm(query, context.rope[ends])
        attn_output = context.attention.last_tokens(query, key, value, prefixes)
        return self.o_proj.add(attn_output.flatten(1), residual[ends])

    def kv(
        self, hidden_states: Tensor, context: Context, prefixes: PrefixKeys | None
    ) -> tuple[Tensor, Tensor]:
        """Project to keys and values, joined if attention gets them so.

        Shape of each: (tokens, kv heads, head_dim)
        """
        kv = self.kv_proj(hidden_states).unflatten(1, (-1, self.config.head_dim))
        if context.attention.source is not None:
            prefixes = prefixes or no_prefixes(kv, self.config.num_key_value_heads)
            return self.k_norm.join(kv, context.rope, context.attention.source, prefixes)[1:]
        key, value = kv.chunk(2, 1)
        return self.k_norm(key, context.rope), value


AnyAttention = TypeVar("AnyAttention", Attention, LastAttention)


@dataclass(frozen=True, slots=True)
class DecoderLayer(Generic[AnyAttention]):
    """`Qwen3DecoderLayer`."""

    input_layernorm: RMSNorm
    self_attn: AnyAttention
    post_attention_layernorm: RMSNorm
    mlp: MLP | MergedMLP

    def __call__(
        self, hidden_states: Tensor, context: Context, prefixes: PrefixKeys | None
    ) -> Tensor:
        """Compute every token, or in the last layer the last token of each sequence."""
        if isinstance(self.self_attn, LastAttention):  # selects rows before its product
            normed = self.input_layernorm(hidden_states)
        else:
            normed = self.input_layernorm.for_product(hidden_states)
        hidden_states = self.self_attn(normed, hidden_states, context, prefixes)
        normed = self.post_attention_layernorm.for_product(hidden_states)
        return self.mlp(normed, residual=hidden_states)


class Qwen3:
    """`Qwen3Model`: the decoder without its output head."""

    def __init__(
        self,
        config: ModelConfig,
        embed_tokens: Tensor,
        layers: list[DecoderLayer[Attention]],
        last_layer: DecoderLayer[LastAttention] | DecoderLayer[Attention],
        norm: RMSNorm,
    ) -> None:
        self.config, self.embed_tokens = config, embed_tokens
        self.layers, self.last_layer, self.norm = layers, last_layer, norm
        inv_freq, self._rope_scale = frequencies(config.rope, config.head_dim)
        self._inv_freq = inv_freq.to(embed_tokens.device)

    def pooled(self, inputs: Inputs) -> Tensor:
        """Return the final hidden state of each sequence's last token. Shape: (sequences, hidden).

        With another pooling, the states of all tokens are pooled. The call does not wait for the
        device, and copies nothing to it.
        """
        hidden_states, context = self._before_last(inputs)
        shared = _in_layer(inputs, -1)
        states = self.norm(self.last_layer(hidden_states, context, shared))
        if self.config.pooling == "lasttoken":  # all that the last layer computes
            return states
        return pool(states, inputs.ends, self.config.pooling)

    def prefix_keys(self, batch: PackedBatch, inputs: Inputs) -> list[AllKeys]:
        """Return the keys and values of every sequence, for use as a shared prefix.

        If a sequence has a prefix, they include those of the prefix. `inputs` must belong to
        `batch`.
        """
        cache, last = _KeyCollector(batch, inputs, self.config), self.last_layer
        if not isinstance(last.self_attn, LastAttention):
            raise TypeError("only pooling of the last token shares prefixes")
        hidden_states, context = self._before_last(inputs, cache)
        shared = _in_layer(inputs, -1)
        normed = last.input_layernorm(hidden_states)
        cache.update(*last.self_attn.kv(normed, context, shared), shared)
        return cache.sequences()

    def _before_last(
        self, inputs: Inputs, cache: _KeyCollector | None = None
    ) -> tuple[Tensor, Context]:
        """Compute all layers but the last."""
        angles = torch.outer(inputs.positions.to(torch.float32), self._inv_freq)[:, None, :]
        rope = torch.polar(torch.full_like(angles, self._rope_scale), angles)
        context = Context(rope, inputs.ends, inputs.attention, cache)
        hidden_states = F.embedding(inputs.ids, self.embed_tokens).to(inputs.dtype)
        for index, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, context, _in_layer(inputs, index))
        return hidden_states, context


def _in_layer(inputs: Inputs, layer: int) -> PrefixKeys | None:
    """Return the keys and values of the batch's prefixes in one layer."""
    if inputs.prefixes is None:
        return None
    return PrefixKeys(*inputs.prefixes[:, layer].unbind(1))

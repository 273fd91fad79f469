"""The decoder over packed sequences.

Checked against transformers' `modeling_qwen3.py` in `tests/core/qwen3/test_decoder.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.attention import BatchAttention, PrefixKeys
from quernstone.batching import PackedBatch
from quernstone.checkpoints.checkpoint import ModelConfig
from quernstone.qwen3.elementwise import Elementwise
from quernstone.qwen3.fp8 import Fp8Linear
from quernstone.qwen3.int8 import Int8Linear
from quernstone.qwen3.linear import Linear
from quernstone.qwen3.mlp import JointProduct, SeparateProducts

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

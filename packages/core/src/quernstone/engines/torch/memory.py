"""Memory of a GPU: what a model needs, and how many tokens a batch may have in the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quernstone.checkpoints.checkpoint import ModelConfig

CACHED_PREFIX_TOKENS = 4096
"""Size of the cache of prefixes. 0.6B needs 112 KiB per token in bfloat16."""

# On a CPU, larger batches are not faster, and exceed its cache. Models below 0.6B get larger ones:
# with the tiny model, two batches take 1.06 of the time of one with as many tokens.
_CPU_BATCH_TOKENS = 4096
_CPU_BATCH_TOKENS_OF_SMALL_MODELS = 8192
_SMALL_HIDDEN_SIZE = 1024
_GPU_BATCH_TOKENS = (2048, 65536)

# CUDA graphs get this share of a GPU's memory, up to a limit.
_GRAPH_SHARE = 16
_MOST_GRAPH_BYTES = 4 << 30
# The CUDA context, kernels, and cuBLAS's workspaces; an H100 with torch 2.11 used about 600 MiB.
_CONTEXT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a model needs on a GPU."""

    weights: int
    context: int
    """The CUDA context, kernels and workspaces."""
    prefixes: int
    """The cache of prefixes, when it is full."""
    graphs: int
    """The most that CUDA graphs get."""
    converted: int
    """The largest matrix in the dtype of activations, if weights are in 8 bits."""
    batches: int
    """Activations of the batch that is computed and of the next one."""
    batch_tokens: int

    @property
    def total(self) -> int:
        """All of them."""
        fixed = self.weights + self.context + self.prefixes + self.graphs + self.converted
        return fixed + self.batches


def plan_memory(
    config: ModelConfig, dtype: torch.dtype, total: int, *, rounded: bool
) -> MemoryPlan:
    """Plan the memory of a GPU that has `total` bytes and runs nothing else.

    Args:
        config: The decoder.
        dtype: Of activations, and of weights that are not rounded.
        total: Bytes.
        rounded: True if the matrices of the layers have 8 bits.
    """
    weights = weight_bytes(config, dtype, rounded=rounded)
    free = total - _CONTEXT_BYTES - weights
    tokens = gpu_batch_tokens(config, dtype, free, total, rounded=rounded)
    return MemoryPlan(
        weights=weights,
        context=_CONTEXT_BYTES,
        prefixes=_prefix_bytes(config, dtype),
        graphs=graph_bytes(total),
        converted=_converted_bytes(config, dtype, rounded=rounded),
        batches=2 * tokens * token_bytes(config, dtype),
        batch_tokens=tokens,
    )


def weight_bytes(config: ModelConfig, dtype: torch.dtype, *, rounded: bool) -> int:
    """Return the bytes of a decoder's weights, without those of norms and biases."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    outputs = heads * config.head_dim + config.hidden_size + 2 * config.intermediate_size
    matrices = config.hidden_size * (
        (heads + config.num_attention_heads) * config.head_dim + 3 * config.intermediate_size
    )
    scales = (outputs + config.hidden_size) * torch.float32.itemsize if rounded else 0
    layer = matrices * (1 if rounded else dtype.itemsize) + scales
    embeddings = config.vocab_size * config.hidden_size * dtype.itemsize
    return embeddings + config.num_hidden_layers * layer


def token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of activations per token of a batch."""
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    # Residual, normed copy, qkv twice (before and after RoPE), attention output, gate and up.
    numbers = 4 * config.hidden_size + 3 * heads * config.head_dim + 3 * config.intermediate_size
    return numbers * dtype.itemsize


def graph_bytes(total: int) -> int:
    """Return the most memory that CUDA graphs may take of a GPU with `total` bytes."""
    return min(total // _GRAPH_SHARE, _MOST_GRAPH_BYTES)


def graph_tokens(config: ModelConfig, dtype: torch.dtype, most_bytes: int) -> int:
    """Return the tokens of the largest batch that a graph may compute.

    All graphs share the memory of its activations, which get half of what graphs may take.
    """
    return most_bytes // 2 // token_bytes(config, dtype)


def gpu_batch_tokens(
    config: ModelConfig, dtype: torch.dtype, free: int, total: int, *, rounded: bool
) -> int:
    """Return the tokens per batch: two batches' activations fill the free memory of a GPU."""
    free -= _prefix_bytes(config, dtype) + graph_bytes(total)
    free -= _converted_bytes(config, dtype, rounded=rounded)
    smallest, largest = _GPU_BATCH_TOKENS
    return max(smallest, min(largest, free // (2 * token_bytes(config, dtype))))


def batch_tokens(
    device: torch.device, config: ModelConfig, dtype: torch.dtype, *, rounded: bool = False
) -> int:
    """Return the tokens per batch on a device that holds the model's weights."""
    if device.type != "cuda":
        small = config.hidden_size < _SMALL_HIDDEN_SIZE
        return _CPU_BATCH_TOKENS_OF_SMALL_MODELS if small else _CPU_BATCH_TOKENS
    free, total = torch.cuda.mem_get_info(device)
    return gpu_batch_tokens(config, dtype, free, total, rounded=rounded)


def total_bytes(device: torch.device) -> int:
    """Return the memory of a GPU."""
    _, total = torch.cuda.mem_get_info(device)
    return int(total)


def _prefix_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    keys = 2 * config.num_key_value_heads * config.head_dim
    return CACHED_PREFIX_TOKENS * config.num_hidden_layers * keys * dtype.itemsize


def _converted_bytes(config: ModelConfig, dtype: torch.dtype, *, rounded: bool) -> int:
    """Return the bytes of the largest matrix, which batches with weights in int8 convert."""
    return 2 * config.intermediate_size * config.hidden_size * dtype.itemsize if rounded else 0

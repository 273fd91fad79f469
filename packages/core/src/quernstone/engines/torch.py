"""Our own engine: packed sequences, shared prefixes, only the rows and tokens that matter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from quernstone.attention import BatchAttention, choose_attention
from quernstone.batching import PackedBatch, pack
from quernstone.engines.placement import choose_device, choose_dtype, memory_errors
from quernstone.errors import ConfigError
from quernstone.int8 import can_compute_int8
from quernstone.models import Checkpoint, ModelConfig
from quernstone.qwen3 import LayerPrefixes, load_qwen3
from quernstone.tokenization import Tokenization
from quernstone.types import Encoded, EngineConfig, EngineInfo, Float32Array, Prefix

# Prefixes kept between batches, in tokens. 0.6B needs 112 KiB a token in bfloat16.
_CACHED_PREFIX_TOKENS = 4096

# On a CPU larger batches gain nothing once the matrices are busy, and leave the cache.
_CPU_BATCH_TOKENS = 4096
_GPU_BATCH_TOKENS = (2048, 65536)


class TorchEngine:
    """Runs Qwen3 checkpoints with `quernstone.qwen3`."""

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenization
    ) -> None:
        device = choose_device(config.device)
        int8 = config.dtype == "int8"
        if int8:
            _check_int8(device)
        self._dtype = choose_dtype("auto" if int8 else config.dtype, device)
        qwen3 = checkpoint.qwen3_config()
        reranks = config.task == "rerank"
        yes_no = [tokenization.token_id(word) for word in ("no", "yes")] if reranks else []
        self._model, head = load_qwen3(
            checkpoint.folder,
            qwen3,
            device=device,
            dtype=self._dtype,
            head_rows=yes_no,
            int8=int8,
        )
        self._head = head.float() if reranks else None
        self.width = 2 if reranks else qwen3.hidden_size
        kernel, self._attention = choose_attention(device, self._dtype)
        _, self._precise_attention = choose_attention(device, torch.float32)
        self.info = EngineInfo(
            engine="torch",
            device=str(device),
            dtype="int8" if int8 else str(self._dtype).removeprefix("torch."),
            attention=kernel,
            max_batch_tokens=config.max_batch_tokens or _batch_tokens(device, qwen3),
        )
        self._prefixes: OrderedDict[tuple[Prefix, torch.dtype], LayerPrefixes] = OrderedDict()

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """See `Engine.run`."""
        packed = pack(batch)
        dtype = torch.float32 if precise else self._dtype
        with torch.inference_mode(), memory_errors(len(packed.input_ids)):
            prefixes = self._prefix_keys([prefix for prefix, _, _ in packed.groups], dtype)
            attention = self._batch_attention(packed, dtype)
            rows = self._model.pooled(packed, attention, prefixes, dtype).float()
            if self._head is not None:
                rows = rows @ self._head.T
            result = rows.cpu().numpy()
        out = np.empty_like(result)
        out[packed.order] = result
        return out

    def close(self) -> None:
        """See `Engine.close`."""
        self._prefixes.clear()
        del self._model, self._head
        if self.info.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _batch_attention(self, packed: PackedBatch, dtype: torch.dtype) -> BatchAttention:
        return (self._attention if dtype == self._dtype else self._precise_attention)(packed)

    def _prefix_keys(self, prefixes: Sequence[Prefix], dtype: torch.dtype) -> list[LayerPrefixes]:
        """Keys and values of `prefixes`, computed in one pass for those not seen lately.

        What they begin with in their turn comes first, in a pass of its own.
        """
        found: dict[Prefix, LayerPrefixes] = {}
        missing: list[Prefix] = []
        for prefix in prefixes:
            keys = self._prefixes.get((prefix, dtype))
            if keys is None:
                missing.append(prefix)
            else:
                found[prefix] = keys
        if missing:
            packed = pack([Encoded(p.ids[len(p.parent or ()) :], p.parent) for p in missing])
            parents = self._prefix_keys([parent for parent, _, _ in packed.groups], dtype)
            attention = self._batch_attention(packed, dtype)
            computed = self._model.prefix_keys(packed, attention, parents, dtype)
            found.update(
                (missing[place], keys) for place, keys in zip(packed.order, computed, strict=True)
            )
        for prefix in prefixes:
            self._prefixes[prefix, dtype] = found[prefix]
            self._prefixes.move_to_end((prefix, dtype))
        cached = sum(len(prefix) for prefix, _ in self._prefixes)
        while cached > _CACHED_PREFIX_TOKENS:
            (prefix, _), _ = self._prefixes.popitem(last=False)
            cached -= len(prefix)
        return [found[prefix] for prefix in prefixes]


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu" or not can_compute_int8():
        msg = (
            f'`dtype="int8"` needs an x86 CPU with VNNI; the model would run on {str(device)!r} of '
            'this machine. Use `dtype="auto"`'
        )
        raise ConfigError(msg)


def _batch_tokens(device: torch.device, config: ModelConfig) -> int:
    """A budget that leaves half of the free memory: activations are what a batch adds."""
    if device.type != "cuda":
        return _CPU_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    # residual, normed copy, qkv twice (before and after RoPE), attention, gate and up, in 2 bytes
    numbers = 4 * config.hidden_size + 3 * heads * config.head_dim + 3 * config.intermediate_size
    smallest, largest = _GPU_BATCH_TOKENS
    return max(smallest, min(largest, free // (2 * numbers * 2)))

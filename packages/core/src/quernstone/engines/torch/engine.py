"""The torch engine: packed sequences, shared prefixes, and no padding."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from quernstone.attention import AttentionMaker, HeadShape, choose_attention
from quernstone.attention.window import windowed
from quernstone.batching import PackedBatch, pack
from quernstone.checkpoints.checkpoint import Checkpoint, ModelConfig
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.padding import whole_ids
from quernstone.engines.placement import choose_device, choose_dtype, memory_errors
from quernstone.engines.torch.deterministic import choose_fixed
from quernstone.engines.torch.graphs import Graphs, choose_recorder
from quernstone.engines.torch.grid import Shape
from quernstone.engines.torch.heap import Heap
from quernstone.engines.torch.memory import (
    CACHED_PREFIX_TOKENS,
    batch_tokens,
    graph_bytes,
    graph_tokens,
    total_bytes,
)
from quernstone.engines.torch.transfer import choose_transfer
from quernstone.errors import ConfigError
from quernstone.kernels import fixed_linear
from quernstone.qwen3 import AllKeys, Inputs, load_qwen3
from quernstone.qwen3.elementwise import choose_elementwise
from quernstone.qwen3.fp8 import can_compute_fp8
from quernstone.qwen3.int8 import can_compute_int8
from quernstone.qwen3.linear import limit_kernel_caches
from quernstone.qwen3.pooling import DenseLayers
from quernstone.types import (
    Dtype,
    Encoded,
    EngineConfig,
    EngineInfo,
    Float32Array,
    Pending,
    Prefix,
    TokenArray,
)

# Starting a batch takes a GPU's host as long as the GPU computes this many tokens.
_PASS_TOKENS = 2048


class TorchEngine:
    """Runs checkpoints of `FAMILIES` with `quernstone.qwen3`."""

    survives_fork = True

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, tokenization: Tokenizer
    ) -> None:
        device = choose_device(config.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # for this thread, which makes all calls
        elif device.type == "cpu":
            limit_kernel_caches()
        rounding = config.dtype if config.dtype in ("int8", "fp8") else None
        self._dtype = _computing_dtype(config.dtype, device)
        qwen3 = checkpoint.decoder_config()
        reranks = config.task == "rerank"
        elementwise = choose_elementwise(qwen3, device, self._dtype, rounding=rounding)
        deterministic, fixed = config.max_batch_tokens == 1, None
        if deterministic:
            fixed = choose_fixed(checkpoint, device, self._dtype, rounding=rounding)
        self._fixed = fixed is not None
        head_rows = (config.head_rows or tokenization.no_and_yes()) if reranks else ()
        self._model, head = load_qwen3(
            checkpoint.folder,
            qwen3,
            device=device,
            dtype=self._dtype,
            head_rows=head_rows,
            rounding=rounding,
            elementwise=elementwise,
            fixed=self._fixed,
            adapter=checkpoint.adapter,
        )
        self._head = head.float() if reranks else None
        if self._fixed and self._head is not None:
            fixed_linear(self._head, self._head)  # compile it now, and not in a request
        dense = checkpoint.dense_layers
        self._dense = DenseLayers(checkpoint.module_folder, dense, device)
        embedded = dense[-1].out_features if dense else qwen3.hidden_size
        self.width = len(head_rows) or embedded
        self._transfer = choose_transfer(device)
        self.overlaps = self._transfer.overlaps
        choose = partial(choose_attention, device, causal=qwen3.causal, shape=_head_shape(qwen3))
        self._attention, self._precise_attention = fixed or (
            windowed(choose(each), device, qwen3.window) for each in (self._dtype, torch.float32)
        )
        given = None if self._fixed else config.max_batch_tokens
        tokens = given or batch_tokens(device, qwen3, self._dtype, rounded=rounding is not None)
        self._graphs: Graphs | None = None
        graphs = self._choose_graphs(device, tokens, deterministic=deterministic)
        self._info = EngineInfo(
            engine="torch",
            device=str(device),
            dtype=rounding or str(self._dtype).removeprefix("torch."),
            attention=self._attention.name,
            max_batch_tokens=tokens,
            graphs=graphs,
            attention_reason=self._attention.reason,
            shares_prefixes=checkpoint.can_share_prefixes,
            prefix_sharing=_sharing(qwen3),
        )
        self._prefixes: OrderedDict[tuple[Prefix, torch.dtype], AllKeys] = OrderedDict()
        self._heap = Heap() if device.type == "cpu" else None

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        if self._graphs is None:
            return self._info
        return replace(self._info, graphs=self._graphs.state)

    @info.setter
    def info(self, info: EngineInfo) -> None:
        self._info = info

    def prepare(self) -> bool:
        """See `PreparingEngine.prepare`: record a CUDA graph."""
        if self._graphs is None:
            return False
        with torch.inference_mode():
            return self._graphs.record_next()

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """See `Engine.run`."""
        return self._launch(batch, torch.float32 if precise else self._dtype)()

    def launch(self, batch: Sequence[Encoded]) -> Pending:
        """See `LaunchingEngine.launch`."""
        return self._launch(batch, self._dtype)

    def _launch(self, batch: Sequence[Encoded], dtype: torch.dtype) -> Pending:
        tokens = sum(map(len, batch))
        if self._heap is not None:
            self._heap.before(tokens)
        with torch.inference_mode(), memory_errors(tokens):
            order, rows = self._start(batch, dtype)
            pending = self._transfer.download(rows)

        def wait() -> Float32Array:
            with memory_errors(tokens):
                rows = pending()
            if order is None:
                return rows
            out = np.empty_like(rows)
            out[order] = rows
            return out

        return wait

    def _start(
        self, batch: Sequence[Encoded], dtype: torch.dtype
    ) -> tuple[Sequence[int] | None, Tensor]:
        """Start a batch. Return which sequences its rows belong to, None if all are in order."""
        if self._graphs is not None and dtype == self._dtype:
            replayed = self._graphs.run(batch)
            if replayed is not None:
                return None, replayed
        packed = pack(self._write_out(batch, dtype))
        prefixes = self._prefix_keys([prefix for prefix, _, _ in packed.groups], dtype)
        sent = self._transfer.upload(*self._arrays(packed, dtype))
        rows = self._rows(self._inputs(packed, sent, prefixes, dtype))
        return packed.order, rows[: len(packed.order)]

    def _choose_graphs(
        self, device: torch.device, max_batch_tokens: int, *, deterministic: bool
    ) -> str:
        """Use CUDA graphs where attention can be replayed. Return a reason where there are none.

        With `deterministic` there are none, because whether one is recorded depends on the free
        memory, and its results differ in the last bits.
        """
        record, config, replay = choose_recorder(device), self._model.config, self._attention.replay
        if record is None:
            return ""
        if deterministic:
            return "none, because results are to be deterministic"
        if config.pooling != "lasttoken":  # needs the exact number of tokens
            return f"none, because of {config.pooling} pooling"
        if replay is None:
            return f"none, because attention by `{self._attention.name}` cannot be replayed"

        def rows(shape: Shape, sent: Sequence[Tensor]) -> Tensor:
            ids, positions, ends, *integers = sent
            attention = replay(shape.bounds, integers)
            return self._rows(Inputs(ids, positions, ends, attention, None, self._dtype))

        most_bytes = graph_bytes(total_bytes(device))
        self._graphs = Graphs(
            rows,
            self._transfer,
            record,
            device=device,
            width=self.width,
            most_tokens=min(max_batch_tokens, graph_tokens(config, self._dtype, most_bytes)),
            most_bytes=most_bytes,
        )
        return ""

    def close(self) -> None:
        """See `Engine.close`."""
        self._prefixes.clear()
        del self._model, self._head
        self._graphs = None
        if self.info.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if self._heap is not None:
            self._heap.trim()

    def _maker(self, dtype: torch.dtype) -> AttentionMaker:
        return self._attention if dtype == self._dtype else self._precise_attention

    def _arrays(
        self, packed: PackedBatch, dtype: torch.dtype
    ) -> tuple[list[TokenArray], list[TokenArray]]:
        """Return the arrays that the device needs for a batch, see `Transfer.upload`."""
        ends = np.asarray(packed.cu_seqlens[1:], dtype=np.int32) - np.int32(1)
        rows = [packed.input_ids, packed.position_ids, ends]
        return rows, self._maker(dtype).integers(packed)

    def _inputs(
        self,
        packed: PackedBatch,
        sent: Sequence[Tensor],
        prefixes: AllKeys | None,
        dtype: torch.dtype,
    ) -> Inputs:
        """Return the inputs of the model: a batch's `_arrays` on the device, and its prefixes."""
        ids, positions, ends, *integers = sent
        attention = self._maker(dtype).make(packed, integers)
        return Inputs(ids, positions, ends, attention, prefixes, dtype)

    def _rows(self, inputs: Inputs) -> Tensor:
        """Compute the rows of a batch. Shape: (rows, width)."""
        rows = self._model.pooled(inputs).float()
        if self._head is None:
            return self._dense(rows)
        return fixed_linear(rows, self._head) if self._fixed else rows @ self._head.T

    def _write_out(self, batch: Sequence[Encoded], dtype: torch.dtype) -> Sequence[Encoded]:
        """Write prefixes out where a pass that computes them would take longer than it saves.

        With `deterministic` a prefix is always shared, because sharing changes the last bits.
        """
        if self._fixed or self._maker(dtype).replay is None:
            return batch
        uses = Counter(each.prefix for each in batch if (each.prefix, dtype) not in self._prefixes)
        saved = sum(len(prefix) * (count - 1) for prefix, count in uses.items() if prefix)
        few = saved <= min(_PASS_TOKENS, self._info.max_batch_tokens // 8)
        return [
            Encoded(whole_ids(each))
            if each.prefix in uses and (few or uses[each.prefix] == 1)
            else each
            for each in batch
        ]

    def _prefix_keys(self, prefixes: Sequence[Prefix], dtype: torch.dtype) -> AllKeys | None:
        """Return the keys and values of `prefixes`, computed in one pass if they are not cached.

        Prefixes of these prefixes are computed first, in another pass.
        """
        if not prefixes:
            return None
        cache = self._prefixes
        found = {prefix: cache[prefix, dtype] for prefix in prefixes if (prefix, dtype) in cache}
        missing = [prefix for prefix in prefixes if prefix not in found]
        if missing:
            packed = pack([Encoded(p.ids[len(p.parent or ()) :], p.parent) for p in missing])
            parents = self._prefix_keys([parent for parent, _, _ in packed.groups], dtype)
            sent = self._transfer.upload(*self._arrays(packed, dtype))
            inputs = self._inputs(packed, sent, parents, dtype)
            computed = self._model.prefix_keys(packed, inputs)
            found.update(
                (missing[place], keys) for place, keys in zip(packed.order, computed, strict=True)
            )
        for prefix in prefixes:
            cache[prefix, dtype] = found[prefix]
            cache.move_to_end((prefix, dtype))
        cached = sum(len(prefix) for prefix, _ in cache)
        while cached > CACHED_PREFIX_TOKENS:
            (prefix, _), _ = cache.popitem(last=False)
            cached -= len(prefix)
        parts = [found[prefix] for prefix in prefixes]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _head_shape(config: ModelConfig) -> HeadShape:
    return HeadShape(config.num_attention_heads, config.num_key_value_heads, config.head_dim)


def _sharing(config: ModelConfig) -> str:
    """Explain whether inputs can share the states of their first tokens."""
    if not config.causal:
        return "attention is bidirectional, so the states of all tokens depend on the last one"
    if config.pooling != "lasttoken":
        return f"{config.pooling} pooling needs the states of all tokens"
    return "attention is causal: common starts are computed once and cached"


def _computing_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of everything that is not rounded to int8 or fp8."""
    if name == "fp8":
        if not can_compute_fp8(device):
            raise ConfigError(
                '`dtype="fp8"` needs an NVIDIA GPU of compute capability 8.9 or later (Ada, '
                f"Hopper, Blackwell); the model would run on {str(device)!r} of this machine. "
                'Use `dtype="auto"`'
            )
        return torch.bfloat16
    if name == "int8":
        if device.type != "cuda" and not (device.type == "cpu" and can_compute_int8()):
            raise ConfigError(
                f'`dtype="int8"` needs an NVIDIA GPU or an x86 CPU with VNNI; the model would '
                f'run on {str(device)!r} of this machine. Use `dtype="auto"`'
            )
        return choose_dtype("auto", device)
    return choose_dtype(name, device)

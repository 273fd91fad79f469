"""Attention by a varlen flash kernel on CUDA: torch's own, or flash-attn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quernstone.attention.base import PrefixKeys, merge
from quernstone.batching import PackedBatch

VarlenKernel = Callable[..., tuple[Tensor, Tensor]]
"""(q, k, v, cu_q, cu_k, max_q, max_k, causal) -> result and log-sum-exp (tokens, heads)."""


class VarlenAttention:
    """Attention by one varlen flash kernel call per layer, plus one for shared prefixes."""

    def __init__(self, batch: PackedBatch, device: torch.device, kernel: VarlenKernel) -> None:
        bounds = batch.cu_seqlens
        self._kernel = kernel
        self._max = batch.max_seqlen
        self._cu = torch.tensor(bounds, dtype=torch.int32, device=device)
        self._cu_last = torch.arange(len(bounds), dtype=torch.int32, device=device)
        self._prefix: _PrefixLayout | None = None
        if batch.groups:
            self._prefix = _PrefixLayout.of(batch, device)

    def all_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        own = self._kernel(query, key, value, self._cu, self._cu, self._max, self._max, causal=True)
        layout = self._prefix
        if layout is None:
            return own[0]
        part = slice(layout.token_start, None)
        shared = self._shared(query[part], prefixes, layout.cu_tokens, layout.max_tokens)
        own[0][part] = merge(own[0][part], own[1][part], *shared)
        return own[0]

    def last_tokens(
        self, query: Tensor, key: Tensor, value: Tensor, prefixes: list[PrefixKeys]
    ) -> Tensor:
        """See `BatchAttention`."""
        own = self._kernel(query, key, value, self._cu_last, self._cu, 1, self._max, causal=False)
        layout = self._prefix
        if layout is None:
            return own[0]
        part = slice(layout.row_start, None)
        shared = self._shared(query[part], prefixes, layout.cu_rows, layout.max_rows)
        own[0][part] = merge(own[0][part], own[1][part], *shared)
        return own[0]

    def _shared(
        self, query: Tensor, prefixes: list[PrefixKeys], cu_query: Tensor, max_query: int
    ) -> tuple[Tensor, Tensor]:
        layout = self._prefix
        if layout is None:
            msg = "no prefix in this batch. This is a bug in Quernstone."
            raise AssertionError(msg)
        key = torch.cat([prefix.key for prefix in prefixes])
        value = torch.cat([prefix.value for prefix in prefixes])
        return self._kernel(
            query, key, value, cu_query, layout.cu_keys, max_query, layout.max_keys, causal=False
        )


@dataclass(frozen=True, slots=True)
class _PrefixLayout:
    """Where the sequences with a shared prefix lie. They are the batch's last ones."""

    row_start: int
    token_start: int
    cu_rows: Tensor
    cu_tokens: Tensor
    cu_keys: Tensor
    max_rows: int
    max_tokens: int
    max_keys: int

    @classmethod
    def of(cls, batch: PackedBatch, device: torch.device) -> _PrefixLayout:
        row_start = batch.groups[0][1]
        rows = [0] + [end - row_start for _, _, end in batch.groups]
        token_start = batch.cu_seqlens[row_start]
        tokens = [batch.cu_seqlens[row_start + row] - token_start for row in rows]
        keys = np.cumsum([0, *(len(prefix) for prefix, _, _ in batch.groups)]).tolist()

        def on_device(bounds: list[int]) -> Tensor:
            return torch.tensor(bounds, dtype=torch.int32, device=device)

        def widest(bounds: list[int]) -> int:
            return int(np.diff(bounds).max())

        return cls(
            row_start,
            token_start,
            on_device(rows),
            on_device(tokens),
            on_device(keys),
            widest(rows),
            widest(tokens),
            widest(keys),
        )


def torch_varlen() -> VarlenKernel | None:
    """Torch's own varlen kernel (torch 2.10 and later), or None where torch lacks it."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn  # noqa: PLC0415
    except ImportError:
        return None

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_q: Tensor,
        cu_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        causal: bool,
    ) -> tuple[Tensor, Tensor]:
        out, lse = varlen_attn(
            q,
            k,
            v,
            cu_q,
            cu_k,
            max_q,
            max_k,
            return_aux=AuxRequest(lse=True),
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=True,
        )
        return out, lse.transpose(0, 1)  # stored as (heads, tokens)

    return kernel


def flash_attn_varlen() -> VarlenKernel | None:
    """The kernel of the `flash-attn` package, or None where it is not installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: PLC0415
    except ImportError:
        return None

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_q: Tensor,
        cu_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        causal: bool,
    ) -> tuple[Tensor, Tensor]:
        out, lse, _ = flash_attn_varlen_func(
            q, k, v, cu_q, cu_k, max_q, max_k, causal=causal, return_attn_probs=True
        )
        return out, lse.transpose(0, 1)  # flash-attn: (heads, tokens)

    return kernel

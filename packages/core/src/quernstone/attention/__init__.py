"""Causal attention over packed sequences, with an optional prefix that sequences share.

One signature, two implementations, neither of which copies or masks a prefix per document.
`VarlenAttention` calls a varlen flash kernel on CUDA, once for the sequences' own keys and once for
the prefix's, each with its log-sum-exp, and merges both exactly. `SdpaAttention` runs anywhere
torch does: it has the scores of both side by side and needs one softmax.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from quernstone.attention.base import BatchAttention, PrefixKeys, merge
from quernstone.attention.sdpa import SdpaAttention
from quernstone.attention.varlen import (
    VarlenAttention,
    VarlenKernel,
    flash_attn_varlen,
    torch_varlen,
)
from quernstone.batching import PackedBatch

__all__ = [
    "BatchAttention",
    "PrefixKeys",
    "SdpaAttention",
    "VarlenAttention",
    "choose_attention",
    "merge",
]


def choose_attention(
    device: torch.device, dtype: torch.dtype
) -> tuple[str, Callable[[PackedBatch], BatchAttention]]:
    """Pick the implementation for a device and a dtype.

    Flash kernels take half precision only and need compute capability 8.0 (Ampere) or newer.

    Returns:
        Its name, and what makes a `BatchAttention` of a batch.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0):
        for name, kernel in (("torch-varlen", torch_varlen()), ("flash-attn", flash_attn_varlen())):
            if kernel is not None:
                return name, _varlen_factory(device, kernel)
    return "sdpa", lambda batch: SdpaAttention(batch, device)


def _varlen_factory(
    device: torch.device, kernel: VarlenKernel
) -> Callable[[PackedBatch], BatchAttention]:
    return lambda batch: VarlenAttention(batch, device, kernel)

"""Causal attention over packed sequences, with an optional prefix that sequences share.

One signature, two implementations, neither of which copies or masks a prefix per document.
`VarlenAttention` calls a varlen flash kernel on CUDA, once for the sequences' own keys and once for
the prefix's, each with its log-sum-exp, and merges both exactly. `SdpaAttention` runs anywhere
torch does: it has the scores of both side by side and needs one softmax.
"""

from __future__ import annotations

import torch

from quernstone.attention.base import AttentionMaker, BatchAttention, PrefixKeys, merge
from quernstone.attention.sdpa import SdpaAttention, SdpaMaker
from quernstone.attention.varlen import (
    VarlenAttention,
    VarlenMaker,
    flash_attn_varlen,
    torch_varlen,
)

__all__ = [
    "AttentionMaker",
    "BatchAttention",
    "PrefixKeys",
    "SdpaAttention",
    "SdpaMaker",
    "VarlenAttention",
    "VarlenMaker",
    "choose_attention",
    "merge",
]


def choose_attention(device: torch.device, dtype: torch.dtype) -> AttentionMaker:
    """Pick the implementation for a device and a dtype.

    Flash kernels take half precision only and need compute capability 8.0 (Ampere) or newer.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0):
        for name, kernel in (("torch-varlen", torch_varlen()), ("flash-attn", flash_attn_varlen())):
            if kernel is not None:
                return VarlenMaker(name, kernel)
    return SdpaMaker(device)

"""Attention over packed sequences, causal or bidirectional, with an optional shared prefix.

There are two implementations, neither of which copies or masks a prefix per document.
`VarlenAttention` calls a varlen flash kernel on CUDA, once for the sequences' own keys and once for
the prefix's, and merges the results exactly by their log-sum-exp. `SdpaAttention` runs on any
device: it places both kinds of scores side by side and needs one softmax.
"""

from __future__ import annotations

import torch

from quernstone.attention.base import AttentionMaker, BatchAttention, GroupKeys, PrefixKeys
from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.varlen import flash_attn_varlen, torch_varlen, varlen_maker

__all__ = ["AttentionMaker", "BatchAttention", "GroupKeys", "PrefixKeys", "choose_attention"]


def choose_attention(
    device: torch.device, dtype: torch.dtype, *, causal: bool = True
) -> AttentionMaker:
    """Choose the implementation for a device and a dtype.

    Bidirectional attention (`causal=False`) has no shared prefixes.
    Flash kernels support half precision only and need compute capability 8.0 (Ampere) or newer.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0):
        for name, kernel in (("torch-varlen", torch_varlen()), ("flash-attn", flash_attn_varlen())):
            if kernel is not None:
                return varlen_maker(name, kernel, causal=causal)
    return sdpa_maker(device, causal=causal)

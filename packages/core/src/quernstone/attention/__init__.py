"""Attention over packed sequences, causal or bidirectional, with an optional shared prefix.

There are two implementations. `VarlenAttention` calls a varlen flash kernel on CUDA. Short prefixes
are copied before the keys of each sequence; longer ones get a call of their own, and the results
are merged exactly by their log-sum-exp. `SdpaAttention` runs on any device and copies no prefix: it
places both kinds of scores side by side and needs one softmax.
"""

from __future__ import annotations

import torch

from quernstone.attention.base import (
    AttentionMaker,
    BatchAttention,
    HeadShape,
    PrefixKeys,
    ReplayBounds,
    join_source,
    joined_lengths,
    no_prefixes,
)
from quernstone.attention.flash import KERNELS, first_right
from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.varlen import replay_integers, varlen_maker

__all__ = [
    "AttentionMaker",
    "BatchAttention",
    "HeadShape",
    "PrefixKeys",
    "ReplayBounds",
    "choose_attention",
    "join_source",
    "joined_lengths",
    "no_prefixes",
    "replay_integers",
]

_TYPICAL_SHAPE = HeadShape(16, 8, 128)


def choose_attention(
    device: torch.device,
    dtype: torch.dtype,
    *,
    causal: bool = True,
    shape: HeadShape = _TYPICAL_SHAPE,
) -> AttentionMaker:
    """Choose the implementation for a device and a dtype.

    Bidirectional attention (`causal=False`) has no shared prefixes.
    Flash kernels support half precision only and need compute capability 8.0 (Ampere) or newer.
    Each one is tried once on a few tokens with heads of `shape`, and used only if it is right.
    """
    if device.type != "cuda":
        return sdpa_maker(device, causal=causal)
    if dtype not in (torch.bfloat16, torch.float16):
        reason = f"flash kernels do not take {str(dtype).removeprefix('torch.')}"
        return sdpa_maker(device, causal=causal, reason=reason)
    capability, minor = torch.cuda.get_device_capability(device)
    if capability < 8:
        reason = f"flash kernels need compute capability 8.0, and this GPU has {capability}.{minor}"
        return sdpa_maker(device, causal=causal, reason=reason)
    with torch.inference_mode():
        name, kernel, reason = first_right(KERNELS, device, dtype, shape, capability)
    if kernel is None:
        return sdpa_maker(device, causal=causal, reason=reason)
    return varlen_maker(name, kernel, causal=causal, reason=reason)

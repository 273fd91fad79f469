"""Attention over packed sequences, causal or bidirectional, with an optional shared prefix.

There are two implementations. `VarlenAttention` calls a varlen kernel on CUDA. Short prefixes
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
from quernstone.attention.flash import KERNELS, TRITON, FlashKernel, depends_on_batch, first_right
from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.varlen import replay_integers, varlen_maker

__all__ = [
    "AttentionMaker",
    "BatchAttention",
    "HeadShape",
    "PrefixKeys",
    "ReplayBounds",
    "choose_attention",
    "choose_fixed_attention",
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
    Flash kernels support half precision only and need compute capability 8.0 (Ampere) or newer;
    our own kernel in Triton is for float32 on any GPU. Each one is tried once on a few tokens with
    heads of `shape`, and used only if it is right.
    """
    if device.type != "cuda":
        return sdpa_maker(device, causal=causal)
    capability, minor = torch.cuda.get_device_capability(device)
    kernels: tuple[FlashKernel, ...] = (*KERNELS, TRITON)
    none, name_of_dtype = "", str(dtype).removeprefix("torch.")
    if dtype not in (torch.bfloat16, torch.float16):
        kernels, none = (TRITON,), f"flash kernels do not take {name_of_dtype}; "
    elif capability < 8:
        # Triton compiles no products for their matrix units, so torch is faster.
        needed = f"kernels in {name_of_dtype} need compute capability 8.0"
        reason = f"{needed}, and this GPU has {capability}.{minor}"
        return sdpa_maker(device, causal=causal, reason=reason)
    with torch.inference_mode():
        name, kernel, reason = first_right(kernels, device, dtype, shape, capability)
    reason = none + reason
    if kernel is None:
        return sdpa_maker(device, causal=causal, reason=reason)
    small = None
    if name != TRITON.name:
        with torch.inference_mode():
            _, small, why = first_right((TRITON,), device, dtype, shape, capability)
        reason = f"{reason}; for small CUDA graphs {why}"
    return varlen_maker(name, kernel, causal=causal, reason=reason, small=small)


def choose_fixed_attention(
    device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> AttentionMaker | None:
    """Return causal attention in which a text's results do not depend on its batch.

    None if our own kernel does not run on this GPU. A shared prefix always has a call of its own,
    because joining it changes the last bits.
    """
    with torch.inference_mode():
        _, kernel, reason = first_right((TRITON,), device, dtype, shape, 0)
        if kernel is None or depends_on_batch(kernel, device, dtype, shape):
            return None
    return varlen_maker("triton", kernel, reason=reason, joins=lambda _batch: False)

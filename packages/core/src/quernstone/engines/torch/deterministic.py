"""Where a GPU computes batches though results must not depend on other texts of a batch."""

from __future__ import annotations

import torch

from quernstone.attention import AttentionMaker, HeadShape, choose_fixed_attention
from quernstone.checkpoints.checkpoint import Checkpoint
from quernstone.qwen3.fixed import rows_are_independent


def choose_fixed(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, *, rounding: str | None
) -> tuple[AttentionMaker, AttentionMaker] | None:
    """Return attention in `dtype` and in float32 for batches that leave a text's vector as it is.

    With it, and with products by `FixedLinear`, a text's vector has the same bits in any batch.
    None if this model or this GPU has other steps, so that texts have to be computed one by one.
    """
    config = checkpoint.decoder_config()
    plain = config.causal and config.pooling == "lasttoken" and config.window is None
    if device.type != "cuda" or rounding or checkpoint.dense_layers or not plain:
        return None
    shape = HeadShape(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    of_dtype, precise = (choose_fixed_attention(device, x, shape) for x in (dtype, torch.float32))
    with torch.inference_mode():
        if of_dtype is None or precise is None or not rows_are_independent(config, device, dtype):
            return None
    return of_dtype, precise

"""The frequencies of RoPE, as `modeling_rope_utils.py` of transformers 5 computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def frequencies(rope: Mapping[str, Any], dim: int) -> tuple[Tensor, float]:
    """Return the angles per position, and the factor of sine and cosine. Shape: (dim / 2,).

    Args:
        rope: See `quernstone.checkpoints.families.read_rope`, with `rope_theta`.
        dim: The size of a head.
    """
    exponent = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    base = float(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "default":
        return base**-exponent, 1.0
    frequency = 1.0 / base**exponent
    factor = float(rope["factor"])
    if kind == "linear":
        return frequency / factor, 1.0
    if kind == "llama3":
        return _llama3(rope, frequency, factor), 1.0
    return _yarn(rope, frequency, factor, dim), _yarn_scale(rope, factor)


def _llama3(rope: Mapping[str, Any], frequency: Tensor, factor: float) -> Tensor:
    """Divide the frequencies of long waves by `factor`, and those of medium waves by less."""
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    waves = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    smooth = ((waves - low) / (high - low)).clamp(0, 1)
    scaled: Tensor = (1 - smooth) * frequency / factor + smooth * frequency
    return scaled


def _yarn(rope: Mapping[str, Any], frequency: Tensor, factor: float, dim: int) -> Tensor:
    """Divide the frequencies by `factor` after a ramp between two numbers of rotations."""
    base, length = float(rope["rope_theta"]), rope["original_max_position_embeddings"]

    def place(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = place(rope.get("beta_fast") or 32), place(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return frequency / factor * ramp + frequency * (1 - ramp)


def _yarn_scale(rope: Mapping[str, Any], factor: float) -> float:
    given = rope.get("attention_factor")
    if given is not None:
        return float(given)

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    return scale(one) / scale(all_dim) if one and all_dim else scale(1.0)

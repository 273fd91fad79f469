"""Fused steps between matrix products, as operators of torch with a kernel for CUDA.

Run operation by operation, these steps would take as long as the products, because each operation
reads and writes memory. `ops` defines them for any device, in plain torch. On CUDA, `use_triton`
replaces that by the Triton kernels of `fused`, which `launch` calls.
"""

from __future__ import annotations

from quernstone.kernels.ops import (
    Operators,
    Rounded,
    fixed_linear,
    int8_linear,
    merge_,
    rms_norm,
    rms_norm_fp8,
    rotate_,
    rotate_and_join_,
    round_fp8,
    silu_mul,
    silu_mul_fp8,
    use_triton,
)
from quernstone.kernels.sources import NO_ROW, REPEATED

__all__ = [
    "NO_ROW",
    "REPEATED",
    "Operators",
    "Rounded",
    "fixed_linear",
    "int8_linear",
    "merge_",
    "rms_norm",
    "rms_norm_fp8",
    "rotate_",
    "rotate_and_join_",
    "round_fp8",
    "silu_mul",
    "silu_mul_fp8",
    "use_triton",
]

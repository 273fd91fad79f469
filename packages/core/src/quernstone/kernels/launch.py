"""The operators of `ops` by the Triton kernels of `fused`."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
import triton
from torch import Tensor

from quernstone.kernels import fused, products, varlen
from quernstone.kernels.sources import NO_ROW, REPEATED

# Numbers per thread in one block: 16 bytes in bfloat16, the widest load.
_PER_THREAD = 8
_HEADS_BLOCK = 1024
_ROW_BLOCK = 1024
# Tiles of products: rows, outputs, inputs per step. Few rows read the weights, whatever the tile.
FEW_ROWS = {"ROWS": 16, "BLOCK": 64, "STEP": 128}
MANY_ROWS = {"ROWS": 128, "BLOCK": 128, "STEP": 64}
PRODUCT_OPTIONS = {"num_warps": 8, "num_stages": 3}
_GROUP = 8
# From so many rows on, converting weights to the dtype of the rows, for the library's product,
# takes less time than the library's product saves. On an H200 the kernel reached 416 TFLOP/s, the
# library 770, and converting a matrix of the 0.6B model took 20 us.
CONVERTING_ROWS = 1024
# Tiles of a product whose rows are independent. The larger ones spill before and after Hopper; on
# an H200 they reached 620 TFLOP/s instead of 525.
FIXED_ROWS = {"ROWS": 128, "BLOCK": 128, "STEP": 32}
FIXED_ROWS_HOPPER = {"ROWS": 256, "BLOCK": 128, "STEP": 64}
# Queries and keys per block of attention, the largest part of a head, warps and stages, by bytes of
# a number: the fastest on an H200 of those that do not spill on any GPU.
ATTENTION_BLOCKS = {2: (64, 32, 128, 4, 3), 4: (64, 16, 16, 8, 1)}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops`."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    _rms_norm(x, weight, out, out, eps, rounds=False)
    return out


def rms_norm_fp8(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    out, scales = _rounded(x, x.shape[1])
    _rms_norm(x, weight, out, scales, eps, rounds=True)
    return out, scales


def silu_mul(x: Tensor) -> Tensor:
    """See `ops`."""
    rows, inner = len(x), x.shape[1] // 2
    out = torch.empty((rows, inner), dtype=x.dtype, device=x.device)
    x = x.contiguous()
    block = min(_ROW_BLOCK, triton.next_power_of_2(inner))
    if rows:
        grid = (rows, triton.cdiv(inner, block))
        _run(
            fused.silu_mul_kernel, grid, block, x, out, out, INNER=inner, BLOCK=block, ROUNDS=False
        )
    return out


def silu_mul_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    rows, inner = len(x), x.shape[1] // 2
    out, scales = _rounded(x, inner)
    x = x.contiguous()
    block = triton.next_power_of_2(inner)
    if rows:
        _run(
            fused.silu_mul_kernel, (rows, 1), block, x, out, scales,
            INNER=inner, BLOCK=block, ROUNDS=True,
        )  # fmt: skip
    return out, scales


def round_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    rows, width = x.shape
    out, scales = _rounded(x, width)
    x = x.contiguous()
    block = triton.next_power_of_2(width)
    if rows:
        _run(fused.round_kernel, (rows,), block, x, out, scales, WIDTH=width, BLOCK=block)
    return out, scales


def rotate_(x: Tensor, weight: Tensor | None, rope: Tensor, eps: float) -> None:
    """See `ops`."""
    tokens, heads, dim = x.shape
    block = _heads_block(heads, dim)
    if tokens:
        _run(
            fused.rotate_kernel, (tokens,), block * dim,
            x, x if weight is None else weight, rope, x.stride(0), eps,
            HEADS=heads, DIM=dim, BLOCK=block, HAS_NORM=weight is not None,
        )  # fmt: skip


def rotate_and_join_(
    qkv: Tensor,
    weight: Tensor | None,
    rope: Tensor,
    eps: float,
    source: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
) -> None:
    """See `ops`."""
    rows, kv_heads, dim = key.shape
    heads = qkv.shape[1] - 2 * kv_heads
    block = _heads_block(max(heads, kv_heads), dim)
    if rows:
        _run(
            fused.rotate_and_join_kernel, (rows,), block * dim,
            qkv, qkv if weight is None else weight, rope, source, prefix_key, prefix_value,
            key, value, qkv.stride(0), prefix_key.stride(0), eps,
            HEADS=heads, KV=kv_heads, DIM=dim, BLOCK=block,
            KV_BLOCK=triton.next_power_of_2(kv_heads), HAS_NORM=weight is not None,
            REPEATED=REPEATED, NO_ROW=NO_ROW,
        )  # fmt: skip


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """See `ops`."""
    tokens, heads, dim = out.shape
    if not (out.is_contiguous() and other.is_contiguous()):
        raise ValueError("`merge_` needs results of attention that are contiguous")
    block = triton.next_power_of_2(heads)
    if tokens:
        _run(
            fused.merge_kernel, (tokens,), block * dim,
            out, lse, other, other_lse, *lse.stride(), *other_lse.stride(),
            HEADS=heads, DIM=dim, BLOCK=block,
        )  # fmt: skip


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """See `ops`."""
    if len(x) >= CONVERTING_ROWS:
        converted = torch.empty(weight.shape, dtype=x.dtype, device=x.device)
        return F.linear(x, torch.mul(weight, scale.unsqueeze(1), out=converted))
    return _product(x, weight, scale, FEW_ROWS if len(x) <= FEW_ROWS["ROWS"] else MANY_ROWS)


def fixed_linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `ops`."""
    larger = x.dtype != torch.float32 and _is_hopper(x.device)
    return _product(x, weight, None, FIXED_ROWS_HOPPER if larger else FIXED_ROWS)


@cache
def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def _product(x: Tensor, weight: Tensor, scale: Tensor | None, tile: dict[str, int]) -> Tensor:
    (rows, inputs), outputs = x.shape, len(weight)
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    if x.dtype == torch.float32 and tile is not FEW_ROWS:
        tile = {**tile, "STEP": tile["STEP"] // 2}  # as many bytes
    if rows:
        tiles = triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(outputs, tile["BLOCK"])
        products.product_kernel[(tiles,)](
            x, weight, weight if scale is None else scale, out, rows, x.stride(0),
            OUTPUTS=outputs, INPUTS=inputs, GROUP=_GROUP, HAS_SCALE=scale is not None,
            **tile, **PRODUCT_OPTIONS,
        )  # fmt: skip
    return out


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_query: Tensor,
    cu_key: Tensor,
    most_queries: int,
    _most_keys: int,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attend within sequences, in any dtype. See `attention.flash.VarlenKernel`.

    The results of a query depend on nothing but the query and the keys of its sequence.
    """
    tokens, heads, dim = query.shape
    query, key, value = (x if x.stride(1) == dim else x.contiguous() for x in (query, key, value))
    out = torch.empty((tokens, heads, dim), dtype=query.dtype, device=query.device)
    lse = torch.empty((tokens, heads), dtype=torch.float32, device=query.device)
    rows, keys, part, num_warps, stages = ATTENTION_BLOCKS[query.element_size()]
    blocks = triton.cdiv(most_queries, rows)
    if tokens:
        varlen.varlen_kernel[(blocks * (len(cu_query) - 1), heads)](
            query, key, value, cu_query, cu_key, out, lse,
            query.stride(0), key.stride(0), value.stride(0), blocks,
            1 / (math.sqrt(dim) * varlen.LN_2),
            HEADS=heads, REPEAT=heads // key.shape[1], DIM=dim, ROWS=rows, KEYS=keys,
            CAUSAL=causal, PART=min(part, dim), LN2=varlen.LN_2,
            num_warps=num_warps, num_stages=stages,
        )  # fmt: skip
    return out, lse


def _rms_norm(
    x: Tensor, weight: Tensor, out: Tensor, scales: Tensor, eps: float, *, rounds: bool
) -> None:
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    if rows:
        _run(
            fused.rms_norm_kernel, (rows,), block, x, weight, out, scales, x.stride(0), eps,
            WIDTH=width, BLOCK=block, ROUNDS=rounds,
        )  # fmt: skip


def _rounded(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    out = torch.empty((len(x), width), dtype=torch.float8_e4m3fn, device=x.device)
    return out, torch.empty((len(x), 1), dtype=torch.float32, device=x.device)


def _heads_block(heads: int, dim: int) -> int:
    """Return the heads per block: 1,024 numbers, unless there are fewer heads."""
    return int(min(triton.next_power_of_2(heads), _HEADS_BLOCK // dim))


def warps(numbers: int) -> int:
    """Return the warps of a block, with 8 to 32 numbers for each of their threads."""
    return max(1, min(16, numbers // (32 * _PER_THREAD)))


def _run(kernel: Any, grid: tuple[int, ...], numbers: int, *inputs: Any, **constants: Any) -> None:
    kernel[grid](*inputs, **constants, num_warps=warps(numbers), enable_fp_fusion=True)

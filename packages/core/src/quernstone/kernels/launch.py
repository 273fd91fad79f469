"""The operators of `ops` by the Triton kernels of `fused`."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
import triton
from torch import Tensor

from quernstone.kernels import fused, products, varlen
from quernstone.kernels.compiled import Kernel
from quernstone.kernels.sources import NO_ROW, REPEATED

logger = logging.getLogger("quernstone")

# Numbers per thread in one block: 16 bytes in bfloat16, the widest load.
_PER_THREAD = 8
_HEADS_BLOCK = 1024
_ROW_BLOCK = 1024


class Tile(NamedTuple):
    """Part of a product that one block of threads computes."""

    rows: int
    outputs: int
    step: int
    """Inputs that are multiplied at once."""

    @property
    def constants(self) -> dict[str, int]:
        """Constants of `products.product_kernel`."""
        return {"ROWS": self.rows, "BLOCK": self.outputs, "STEP": self.step}


# Few rows read the weights, whatever the tile.
FEW_ROWS, MANY_ROWS = Tile(16, 64, 128), Tile(128, 128, 64)
PRODUCT_OPTIONS = {"num_warps": 8, "num_stages": 3}
_GROUP = 8
# From so many rows on, converting weights to the dtype of the rows, for the library's product,
# takes less time than the library's product saves. On an H200 the kernel reached 416 TFLOP/s, the
# library 770, and converting a matrix of the 0.6B model took 20 us.
CONVERTING_ROWS = 1024
# Tiles of a product whose rows are independent. The larger ones spill before and after Hopper; on
# an H200 they reached 620 TFLOP/s instead of 525.
FIXED_ROWS, FIXED_ROWS_HOPPER = Tile(128, 128, 32), Tile(256, 128, 64)
# Queries and keys per block of attention, the largest part of a head, warps and stages, by bytes of
# a number: the fastest on an H200 of those that do not spill on any GPU.
ATTENTION_BLOCKS = {2: (64, 32, 128, 4, 3), 4: (64, 16, 16, 8, 1)}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops`."""
    out = x.new_empty(x.shape)
    _rms_norm(x, weight, out, out, eps, rounds=False)
    return out


def rms_norm_fp8(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    out, scales = _rounded(x, x.shape[1])
    _rms_norm(x, weight, out, scales, eps, rounds=True)
    return out, scales


def silu_mul(x: Tensor) -> Tensor:
    """See `ops`."""
    rows, inner = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, inner)
    x = x.contiguous()
    if rows:
        blocks = -(-inner // _silu_mul_block(inner))
        _SILU_MUL((rows, blocks, 1), (inner, False), (x, out, out), ())
    return out


def silu_mul_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    rows, inner = x.shape[0], x.shape[1] // 2
    out, scales = _rounded(x, inner)
    x = x.contiguous()
    if rows:
        _SILU_MUL((rows, 1, 1), (inner, True), (x, out, scales), ())
    return out, scales


def round_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `ops`."""
    rows, width = x.shape
    out, scales = _rounded(x, width)
    x = x.contiguous()
    if rows:
        _ROUND((rows, 1, 1), (width,), (x, out, scales), ())
    return out, scales


def rotate_(x: Tensor, weight: Tensor | None, rope: Tensor, eps: float) -> None:
    """See `ops`."""
    tokens, heads, dim = x.shape
    if tokens:
        tensors = (x, x if weight is None else weight, rope)
        shape = (heads, dim, weight is not None)
        _ROTATE((tokens, 1, 1), shape, tensors, (x.stride(0), eps))


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
    if rows:
        norm = qkv if weight is None else weight
        tensors = (qkv, norm, rope, source, prefix_key, prefix_value, key, value)
        shape = (qkv.shape[1] - 2 * kv_heads, kv_heads, dim, weight is not None)
        numbers = (qkv.stride(0), prefix_key.stride(0), eps)
        _ROTATE_AND_JOIN((rows, 1, 1), shape, tensors, numbers)


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """See `ops`."""
    tokens, heads, dim = out.shape
    if not (out.is_contiguous() and other.is_contiguous()):
        raise ValueError("`merge_` needs results of attention that are contiguous")
    if tokens:
        strides = (*lse.stride(), *other_lse.stride())
        _MERGE((tokens, 1, 1), (heads, dim), (out, lse, other, other_lse), strides)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """See `ops`."""
    if len(x) >= CONVERTING_ROWS:
        converted = torch.empty(weight.shape, dtype=x.dtype, device=x.device)
        return F.linear(x, torch.mul(weight, scale.unsqueeze(1), out=converted))
    return _product(x, weight, scale, FEW_ROWS if len(x) <= FEW_ROWS.rows else MANY_ROWS)


def fixed_linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `ops`."""
    larger = x.dtype != torch.float32 and _is_hopper(x.device)
    return _product(x, weight, None, FIXED_ROWS_HOPPER if larger else FIXED_ROWS)


@cache
def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def _product(x: Tensor, weight: Tensor, scale: Tensor | None, tile: Tile) -> Tensor:
    (rows, inputs), outputs = x.shape, len(weight)
    out = x.new_empty(rows, outputs)
    if x.dtype == torch.float32 and tile is not FEW_ROWS:
        tile = tile._replace(step=tile.step // 2)  # as many bytes
    if rows:
        tiles = -(-rows // tile.rows) * -(-outputs // tile.outputs)
        tensors = (x, weight, weight if scale is None else scale, out)
        shape = (outputs, inputs, tile, scale is not None)
        _PRODUCT((tiles, 1, 1), shape, tensors, (rows, x.stride(0)))
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
    out = query.new_empty(query.shape)
    lse = query.new_empty(tokens, heads, dtype=torch.float32)
    rows, *_ = ATTENTION_BLOCKS[query.element_size()]
    blocks = -(-most_queries // rows)
    if tokens:
        grid = (blocks * (len(cu_query) - 1), heads, 1)
        shape = (heads, key.shape[1], dim, causal, query.element_size())
        scale = 1 / (math.sqrt(dim) * varlen.LN_2)
        numbers = (query.stride(0), key.stride(0), value.stride(0), blocks, scale)
        _VARLEN(grid, shape, (query, key, value, cu_query, cu_key, out, lse), numbers)
    return out, lse


def check_starting(device: torch.device) -> None:
    """Compare both ways to start kernels, see `Kernel.check`. Warn if only the slow one works."""
    x = torch.randn(2, 64, device=device)
    wrong = Kernel.check(lambda: rms_norm(x, x[0], 1e-6))
    if wrong is not None:
        logger.warning(
            "Triton starts the kernels, which takes longer: starting them directly failed: %s",
            wrong,
        )


def _rms_norm(
    x: Tensor, weight: Tensor, out: Tensor, scales: Tensor, eps: float, *, rounds: bool
) -> None:
    rows, width = x.shape
    if rows:
        _RMS_NORM((rows, 1, 1), (width, rounds), (x, weight, out, scales), (x.stride(0), eps))


def _rounded(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    rows = x.shape[0]
    out = x.new_empty(rows, width, dtype=torch.float8_e4m3fn)
    return out, x.new_empty(rows, 1, dtype=torch.float32)


def _heads_block(heads: int, dim: int) -> int:
    """Return the heads per block: 1,024 numbers, unless there are fewer heads."""
    return int(min(triton.next_power_of_2(heads), _HEADS_BLOCK // dim))


def _silu_mul_block(inner: int) -> int:
    return int(min(_ROW_BLOCK, triton.next_power_of_2(inner)))


def warps(numbers: int) -> int:
    """Return the warps of a block, with 8 to 32 numbers for each of their threads."""
    return max(1, min(16, numbers // (32 * _PER_THREAD)))


def _options(numbers: int) -> dict[str, Any]:
    return {"num_warps": warps(numbers), "enable_fp_fusion": True}


def _of_rms_norm(width: int, rounds: bool) -> dict[str, Any]:
    block = triton.next_power_of_2(width)
    return {"WIDTH": width, "BLOCK": block, "ROUNDS": rounds, **_options(block)}


def _of_silu_mul(inner: int, rounds: bool) -> dict[str, Any]:
    block = triton.next_power_of_2(inner) if rounds else _silu_mul_block(inner)
    return {"INNER": inner, "BLOCK": block, "ROUNDS": rounds, **_options(block)}


def _of_round(width: int) -> dict[str, Any]:
    block = triton.next_power_of_2(width)
    return {"WIDTH": width, "BLOCK": block, **_options(block)}


def _of_rotate(heads: int, dim: int, has_norm: bool) -> dict[str, Any]:
    block = _heads_block(heads, dim)
    sizes = {"HEADS": heads, "DIM": dim, "BLOCK": block, "HAS_NORM": has_norm}
    return {**sizes, **_options(block * dim)}


def _of_join(heads: int, kv_heads: int, dim: int, has_norm: bool) -> dict[str, Any]:
    return {
        **_of_rotate(max(heads, kv_heads), dim, has_norm),
        "HEADS": heads,
        "KV": kv_heads,
        "KV_BLOCK": triton.next_power_of_2(kv_heads),
        "REPEATED": REPEATED,
        "NO_ROW": NO_ROW,
    }


def _of_merge(heads: int, dim: int) -> dict[str, Any]:
    block = triton.next_power_of_2(heads)
    return {"HEADS": heads, "DIM": dim, "BLOCK": block, **_options(block * dim)}


def _of_product(outputs: int, inputs: int, tile: Tile, has_scale: bool) -> dict[str, Any]:
    sizes = {"OUTPUTS": outputs, "INPUTS": inputs, **tile.constants}
    return {**sizes, "GROUP": _GROUP, "HAS_SCALE": has_scale, **PRODUCT_OPTIONS}


def _of_varlen(heads: int, kv_heads: int, dim: int, causal: bool, size: int) -> dict[str, Any]:
    rows, keys, part, num_warps, stages = ATTENTION_BLOCKS[size]
    sizes = {"HEADS": heads, "REPEAT": heads // kv_heads, "DIM": dim, "ROWS": rows, "KEYS": keys}
    options = {"num_warps": num_warps, "num_stages": stages}
    return {**sizes, "CAUSAL": causal, "PART": min(part, dim), "LN2": varlen.LN_2, **options}


_RMS_NORM = Kernel(fused.rms_norm_kernel, _of_rms_norm)
_SILU_MUL = Kernel(fused.silu_mul_kernel, _of_silu_mul)
_ROUND = Kernel(fused.round_kernel, _of_round)
_ROTATE = Kernel(fused.rotate_kernel, _of_rotate)
_ROTATE_AND_JOIN = Kernel(fused.rotate_and_join_kernel, _of_join)
_MERGE = Kernel(fused.merge_kernel, _of_merge)
_PRODUCT = Kernel(products.product_kernel, _of_product)
_VARLEN = Kernel(varlen.varlen_kernel, _of_varlen)

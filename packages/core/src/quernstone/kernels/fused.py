# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels for the operators of `ops`.

Numbers and positions that change from batch to batch are not specialized on, so that each kernel is
compiled once for a model, when it is loaded. Offsets of tokens are 64-bit: a batch may hold more
numbers than 32 bits count. Rows of heads are masked where heads are not a multiple of a block.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _normed_heads(x, weight, mask, eps, HAS_NORM: tl.constexpr, DIM: tl.constexpr) -> Any:
    """Normalize heads, (heads, DIM) in float32, by weights at the pointers `weight`."""
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)
        x = x * scale[:, None] * tl.load(weight, mask=mask, other=0).to(tl.float32)
    return x


@triton.jit
def _rotated(x, cos, sin, HEADS: tl.constexpr, DIM: tl.constexpr) -> Any:
    real, imaginary = tl.split(tl.reshape(x, (HEADS, DIM // 2, 2)))
    rotated = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    return tl.reshape(rotated, (HEADS, DIM))


@triton.jit
def rotate_kernel(
    x, weight, rope, stride, eps,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, HAS_NORM: tl.constexpr,
) -> None:  # fmt: skip
    """Norm and RoPE of one token per program, BLOCK heads together, in place."""
    token = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, DIM)
    cos, sin = tl.split(tl.reshape(tl.load(rope + token * DIM + dim), (1, DIM // 2, 2)))
    for first in tl.static_range(0, HEADS, BLOCK):
        head = first + tl.arange(0, BLOCK)
        at = head[:, None] * DIM + dim[None, :]
        mask = (head < HEADS)[:, None]
        numbers = tl.load(x + token * stride + at, mask=mask, other=0).to(tl.float32)
        numbers = _normed_heads(numbers, weight + at, mask, eps, HAS_NORM, DIM)
        numbers = _rotated(numbers, cos, sin, BLOCK, DIM)
        tl.store(x + token * stride + at, numbers.to(x.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize_on_alignment=["source"])
def rotate_and_join_kernel(
    qkv, weight, rope, source, prefix_key, prefix_value, key, value, stride, prefix_stride, eps,
    HEADS: tl.constexpr, KV: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    KV_BLOCK: tl.constexpr, HAS_NORM: tl.constexpr,
    REPEATED: tl.constexpr, NO_ROW: tl.constexpr,
) -> None:  # fmt: skip
    """One row of keys and values per program: of a token, with its queries, or of a prefix.

    See `sources` for the special values of a source.
    """
    row = tl.program_id(0).to(tl.int64)
    where = tl.load(source + row).to(tl.int64)
    dim = tl.arange(0, DIM)
    kv_head = tl.arange(0, KV_BLOCK)
    kv_at = kv_head[:, None] * DIM + dim[None, :]
    kv_mask = (kv_head < KV)[:, None]
    to = row * (KV * DIM) + kv_at
    if where < 0:
        if where != NO_ROW:
            prefix = (-1 - where) * prefix_stride + kv_at
            tl.store(key + to, tl.load(prefix_key + prefix, mask=kv_mask), mask=kv_mask)
            tl.store(value + to, tl.load(prefix_value + prefix, mask=kv_mask), mask=kv_mask)
    else:
        has_queries = where < REPEATED
        where = where & (REPEATED - 1)
        token = qkv + where * stride
        cos, sin = tl.split(tl.reshape(tl.load(rope + where * DIM + dim), (1, DIM // 2, 2)))
        if has_queries:
            for first in tl.static_range(0, HEADS, BLOCK):
                head = first + tl.arange(0, BLOCK)
                at = head[:, None] * DIM + dim[None, :]
                mask = (head < HEADS)[:, None]
                numbers = tl.load(token + at, mask=mask, other=0).to(tl.float32)
                numbers = _normed_heads(numbers, weight + at, mask, eps, HAS_NORM, DIM)
                numbers = _rotated(numbers, cos, sin, BLOCK, DIM)
                tl.store(token + at, numbers.to(qkv.dtype.element_ty), mask=mask)
        at = HEADS * DIM + kv_at
        numbers = tl.load(token + at, mask=kv_mask, other=0).to(tl.float32)
        numbers = _normed_heads(numbers, weight + at, kv_mask, eps, HAS_NORM, DIM)
        numbers = _rotated(numbers, cos, sin, KV_BLOCK, DIM)
        tl.store(key + to, numbers.to(key.dtype.element_ty), mask=kv_mask)
        tl.store(value + to, tl.load(token + KV * DIM + at, mask=kv_mask), mask=kv_mask)


@triton.jit
def _store_rounded(numbers, at, mask, out, scales, row) -> None:
    """Store one row in fp8, and its scale."""
    scale = tl.maximum(tl.max(tl.abs(numbers), 0) / 448.0, 1e-20)
    tl.store(out + at, (numbers / scale).to(out.dtype.element_ty), mask=mask)
    tl.store(scales + row, scale)


@triton.jit
def rms_norm_kernel(
    x, weight, out, scales, stride, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROUNDS: tl.constexpr,
) -> None:  # fmt: skip
    """RMSNorm of one row per program, rounded to fp8 if ROUNDS."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < WIDTH
    numbers = tl.load(x + row * stride + at, mask=mask, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers, 0) / WIDTH + eps)
    numbers = numbers * scale * tl.load(weight + at, mask=mask, other=0).to(tl.float32)
    if ROUNDS:
        _store_rounded(numbers, row * WIDTH + at, mask, out, scales, row)
    else:
        tl.store(out + row * WIDTH + at, numbers.to(out.dtype.element_ty), mask=mask)


@triton.jit
def silu_mul_kernel(
    x, out, scales, INNER: tl.constexpr, BLOCK: tl.constexpr, ROUNDS: tl.constexpr
) -> None:
    """SiLU of the first half of a row times the second; a complete row per program if ROUNDS."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < INNER
    gate = tl.load(x + row * (2 * INNER) + at, mask=mask, other=0).to(tl.float32)
    up = tl.load(x + row * (2 * INNER) + INNER + at, mask=mask, other=0).to(tl.float32)
    numbers = gate / (1 + tl.exp(-gate)) * up
    if ROUNDS:
        _store_rounded(numbers, row * INNER + at, mask, out, scales, row)
    else:
        tl.store(out + row * INNER + at, numbers.to(out.dtype.element_ty), mask=mask)


@triton.jit
def round_kernel(x, out, scales, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Round one row per program to fp8."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < WIDTH
    numbers = tl.load(x + row * WIDTH + at, mask=mask, other=0).to(tl.float32)
    _store_rounded(numbers, row * WIDTH + at, mask, out, scales, row)


_STRIDES = ["lse_token", "lse_head", "other_token", "other_head"]


@triton.jit(
    do_not_specialize=_STRIDES,
    do_not_specialize_on_alignment=["lse", "other_lse", *_STRIDES],
)
def merge_kernel(
    out, lse, other, other_lse, lse_token, lse_head, other_token, other_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Merge one token per program into `out`."""
    token = tl.program_id(0).to(tl.int64)
    head, dim = tl.arange(0, BLOCK), tl.arange(0, DIM)
    real = head < HEADS
    a_at = token * lse_token + head.to(tl.int64) * lse_head
    a = tl.load(lse + a_at, mask=real, other=0)
    b = tl.load(
        other_lse + token * other_token + head.to(tl.int64) * other_head, mask=real, other=0
    )
    weight = (1 / (1 + tl.exp(b - a)))[:, None]
    at = token * (HEADS * DIM) + head[:, None] * DIM + dim[None, :]
    mask = real[:, None]
    x = tl.load(out + at, mask=mask, other=0).to(tl.float32)
    y = tl.load(other + at, mask=mask, other=0).to(tl.float32)
    tl.store(out + at, (y + (x - y) * weight).to(out.dtype.element_ty), mask=mask)

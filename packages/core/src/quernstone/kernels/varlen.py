# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A Triton kernel for attention over packed sequences, in any dtype.

The softmax is computed online, block of keys by block of keys. With the same blocks, the result of
a query depends on the keys of its sequence alone: keys that it does not see add exact zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN_2 = 0.6931471805599453


@triton.jit(do_not_specialize=["blocks"], do_not_specialize_on_alignment=["cu_query", "cu_key"])
def varlen_kernel(
    query, key, value, cu_query, cu_key, out, lse, query_stride, key_stride, value_stride,
    blocks, scale,
    HEADS: tl.constexpr, REPEAT: tl.constexpr, DIM: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, PART: tl.constexpr,
    LN2: tl.constexpr,
) -> None:  # fmt: skip
    """ROWS queries of one head per program, and KEYS keys per step.

    `scale` contains the base of exponents: scores are powers of two. REPEAT query heads share a
    key head. The last query of a sequence sees its last key. Products are summed in
    parts of PART numbers of a head, because in float32 a product keeps its inputs in registers.
    """
    sequence, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    first = tl.load(cu_query + sequence).to(tl.int64)
    first_key = tl.load(cu_key + sequence).to(tl.int64)
    queries = (tl.load(cu_query + sequence + 1) - first).to(tl.int32)
    keys = (tl.load(cu_key + sequence + 1) - first_key).to(tl.int32)
    if block * ROWS >= queries:
        return
    head, dim = tl.program_id(1), tl.arange(0, DIM)
    row = block * ROWS + tl.arange(0, ROWS)
    is_row = row < queries
    query_at = query + (first + row)[:, None] * query_stride + head * DIM
    if PART == DIM:
        q = tl.load(query_at + dim[None, :], mask=is_row[:, None], other=0)
    seen = row + (keys - queries)  # the last key that a query sees
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, (block + 1) * ROWS + keys - queries)
    step = tl.arange(0, KEYS)
    shared = head // REPEAT * DIM
    key_at = key + (first_key + step)[None, :] * key_stride + shared
    value_at = value + (first_key + step)[:, None] * value_stride + shared + dim[None, :]
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, DIM), tl.float32)
    for start in range(0, end, KEYS):
        is_key = start + step < keys
        if PART == DIM:
            k = tl.load(key_at + dim[:, None], mask=is_key[None, :], other=0)
            scores = tl.dot(q, k, input_precision="ieee") * scale
        else:
            scores = tl.zeros((ROWS, KEYS), tl.float32)
            for number in tl.static_range(DIM // PART):
                part = number * PART + tl.arange(0, PART)
                q = tl.load(query_at + part[None, :], mask=is_row[:, None], other=0)
                k = tl.load(key_at + part[:, None], mask=is_key[None, :], other=0)
                scores = tl.dot(q, k, scores, input_precision="ieee")
            scores *= scale
        visible = is_key[None, :]
        if CAUSAL:
            visible = visible & ((start + step)[None, :] <= seen[:, None])
        scores = tl.where(visible, scores, -float("inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(new == -float("inf"), 0.0, new)  # of a query without keys so far
        weights = tl.exp2(scores - base[:, None])
        faded = tl.exp2(largest - base)
        total = total * faded + tl.sum(weights, 1)
        v = tl.load(value_at, mask=is_key[:, None], other=0)
        sums = sums * faded[:, None]
        sums = tl.dot(weights.to(v.dtype), v, sums, input_precision="ieee")
        largest = new
        key_at += KEYS * key_stride
        value_at += KEYS * value_stride
    result = sums / tl.where(total == 0, 1.0, total)[:, None]
    at = ((first + row)[:, None] * HEADS + head) * DIM + dim[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=is_row[:, None])
    tl.store(lse + (first + row) * HEADS + head, (largest + tl.log2(total)) * LN2, mask=is_row)

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A Triton kernel for products of rows and a matrix of weights, which may be in int8.

Weights are converted to the dtype of the activations as they are read, so products with int8 take
half of the memory of bfloat16 and no further pass. They are the left operand, which Hopper's matrix
units take from registers, where the conversion leaves it.

With the same tile, a row's result does not depend on the other rows: each is the sum of the same
terms in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def product_kernel(
    x, weight, scale, out, rows, stride,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
    HAS_SCALE: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of ROWS rows and BLOCK outputs per program.

    Neighbours share outputs. Groups of GROUP tiles of rows take all outputs, from the cache.
    """
    tiles = tl.cdiv(rows, ROWS)
    of_group = GROUP * tl.cdiv(OUTPUTS, BLOCK)
    first_tile = tl.program_id(0) // of_group * GROUP
    neighbours = tl.minimum(tiles - first_tile, GROUP)
    place = tl.program_id(0) % of_group
    row = (first_tile + place % neighbours).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    output = (place // neighbours).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    step = tl.arange(0, STEP)
    is_row, is_output = row < rows, output < OUTPUTS
    x_at = x + row[:, None] * stride + step[None, :]
    weight_at = weight + output[:, None] * INPUTS + step[None, :]
    total = tl.zeros((BLOCK, ROWS), dtype=tl.float32)
    for first in range(0, INPUTS, STEP):
        real = (first + step < INPUTS)[None, :]
        numbers = tl.load(x_at + first, mask=is_row[:, None] & real, other=0)
        weights = tl.load(weight_at + first, mask=is_output[:, None] & real, other=0)
        left, right = weights.to(x.dtype.element_ty), tl.trans(numbers)
        total = tl.dot(left, right, total, input_precision="ieee")
    if HAS_SCALE:
        total *= tl.load(scale + output, mask=is_output, other=0)[:, None]
    result = tl.trans(total).to(out.dtype.element_ty)
    at = out + row[:, None] * OUTPUTS + output[None, :]
    tl.store(at, result, mask=is_row[:, None] & is_output[None, :])

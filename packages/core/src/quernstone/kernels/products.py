# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A Triton kernel for products with weights in int8.

Weights are converted to the dtype of the activations as they are read, so the products take half of
the memory of bfloat16 and no further pass. They are the left operand, which Hopper's matrix units
take from registers, where the conversion leaves it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def int8_product_kernel(
    x, weight, scale, out, rows, stride,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of ROWS rows and BLOCK outputs per program. Neighbours share outputs."""
    tiles = tl.cdiv(rows, ROWS)
    row = (tl.program_id(0) % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    output = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    step = tl.arange(0, STEP)
    is_row, is_output = row < rows, output < OUTPUTS
    x_at = x + row[:, None] * stride + step[None, :]
    weight_at = weight + output[:, None] * INPUTS + step[None, :]
    total = tl.zeros((BLOCK, ROWS), dtype=tl.float32)
    for first in range(0, INPUTS, STEP):
        real = (first + step < INPUTS)[None, :]
        numbers = tl.load(x_at + first, mask=is_row[:, None] & real, other=0)
        rounded = tl.load(weight_at + first, mask=is_output[:, None] & real, other=0)
        left, right = rounded.to(x.dtype.element_ty), tl.trans(numbers)
        total = tl.dot(left, right, total, input_precision="ieee")
    total *= tl.load(scale + output, mask=is_output, other=0)[:, None]
    result = tl.trans(total).to(out.dtype.element_ty)
    at = out + row[:, None] * OUTPUTS + output[None, :]
    tl.store(at, result, mask=is_row[:, None] & is_output[None, :])

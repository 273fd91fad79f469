"""Operators of torch for the fused steps, defined by plain torch operations.

The definitions run on every device without a kernel, and kernels are tested against them. All
compute in float32 and round once, to the dtype of their input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from quernstone.kernels.sources import NO_ROW, REPEATED

LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALE = 1e-20
"""Keeps rows of zeros from dividing by zero."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """Rows in float8_e4m3fn, as `round_fp8` returns them."""

    values: Tensor
    scale: Tensor
    dtype: torch.dtype
    """The dtype they were rounded from."""


class Operators(Protocol):
    """The operators, which this module defines and `launch` runs by Triton kernels."""

    rms_norm: Callable[..., Any]
    rms_norm_fp8: Callable[..., Any]
    silu_mul: Callable[..., Any]
    silu_mul_fp8: Callable[..., Any]
    round_fp8: Callable[..., Any]
    rotate_: Callable[..., Any]
    rotate_and_join_: Callable[..., Any]
    merge_: Callable[..., Any]
    int8_linear: Callable[..., Any]
    fixed_linear: Callable[..., Any]


_SCHEMAS = {
    "rms_norm": "(Tensor x, Tensor weight, float eps) -> Tensor",
    "rms_norm_fp8": "(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    "silu_mul": "(Tensor x) -> Tensor",
    "silu_mul_fp8": "(Tensor x) -> (Tensor, Tensor)",
    "round_fp8": "(Tensor x) -> (Tensor, Tensor)",
    "rotate_": "(Tensor(a!) x, Tensor? weight, Tensor rope, float eps) -> ()",
    "rotate_and_join_": (
        "(Tensor(a!) qkv, Tensor? weight, Tensor rope, float eps, Tensor source, "
        "Tensor prefix_key, Tensor prefix_value, Tensor(b!) key, Tensor(c!) value) -> ()"
    ),
    "merge_": "(Tensor(a!) out, Tensor lse, Tensor other, Tensor other_lse) -> ()",
    "int8_linear": "(Tensor x, Tensor weight, Tensor scale) -> Tensor",
    "fixed_linear": "(Tensor x, Tensor weight) -> Tensor",
}


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _normed(x.float(), weight, eps).to(x.dtype)


def _rms_norm_fp8(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _round_fp8(_normed(x.float(), weight, eps))


def _silu_mul(x: Tensor) -> Tensor:
    gate, up = x.float().chunk(2, -1)
    return (F.silu(gate) * up).to(x.dtype)


def _silu_mul_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    return _round_fp8(_silu_mul(x.float()))


def _round_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    numbers = x.float()
    scale = numbers.abs().amax(-1, keepdim=True).div(LARGEST_FP8).clamp_min(SMALLEST_SCALE)
    return (numbers / scale).to(torch.float8_e4m3fn), scale


def _rotate_(x: Tensor, weight: Tensor | None, rope: Tensor, eps: float) -> None:
    numbers = x.float()
    if weight is not None:
        numbers = _normed(numbers, weight, eps)
    (real, imaginary), (cos, sin) = numbers.unflatten(-1, (-1, 2)).unbind(-1), rope.unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = (real * cos - imaginary * sin, real * sin + imaginary * cos)
    x.copy_(torch.stack(rotated, -1).flatten(-2))


def _rotate_and_join_(
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
    kv_heads = key.shape[1]
    _rotate_(qkv[:, :-kv_heads], weight, rope, eps)
    # Rows of the prefixes are -1, -2, ...: in reverse order, an index counts them from the end.
    index = torch.where(source >= REPEATED, source - REPEATED, source)
    index = torch.where(source == NO_ROW, 0, index)
    for out, own, prefix in (
        (key, qkv[:, -2 * kv_heads : -kv_heads], prefix_key),
        (value, qkv[:, -kv_heads:], prefix_value),
    ):
        rows = torch.cat((own, prefix.flip(0)))
        out.copy_(rows.index_select(0, index.remainder(len(rows))))


def _merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    weight = torch.sigmoid(lse - other_lse).unsqueeze(-1)
    out.copy_(torch.lerp(other.float(), out.float(), weight))


def _int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return F.linear(x.float(), weight.float()).mul_(scale).to(x.dtype)


def _fixed_linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.float(), weight.float()).to(x.dtype)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


DEFINITIONS: dict[str, Callable[..., Any]] = {
    "rms_norm": _rms_norm,
    "rms_norm_fp8": _rms_norm_fp8,
    "silu_mul": _silu_mul,
    "silu_mul_fp8": _silu_mul_fp8,
    "round_fp8": _round_fp8,
    "rotate_": _rotate_,
    "rotate_and_join_": _rotate_and_join_,
    "merge_": _merge_,
    "int8_linear": _int8_linear,
    "fixed_linear": _fixed_linear,
}

_LIBRARY = torch.library.Library("quernstone", "DEF")
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema)
    _LIBRARY.impl(_name, DEFINITIONS[_name], "CompositeExplicitAutograd")
_OPS = torch.ops.quernstone


@cache
def use_triton() -> None:
    """Run the operators by Triton kernels on CUDA from now on, in this process.

    Raises an ImportError if Triton is not installed.
    """
    from quernstone.kernels import launch  # noqa: PLC0415 - imports Triton

    for name in _SCHEMAS:
        _LIBRARY.impl(name, getattr(launch, name), "CUDA")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Apply RMSNorm to rows. Shape of `x`: (rows, width)."""
    return cast("Tensor", _OPS.rms_norm.default(x, weight, eps))


def rms_norm_fp8(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Apply RMSNorm to rows, and round them as `round_fp8` does."""
    return cast("tuple[Tensor, Tensor]", _OPS.rms_norm_fp8.default(x, weight, eps))


def silu_mul(x: Tensor) -> Tensor:
    """Multiply SiLU of each row's first half by its second. Shape: (rows, 2 * inner)."""
    return cast("Tensor", _OPS.silu_mul.default(x))


def silu_mul_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same, and round the result as `round_fp8` does."""
    return cast("tuple[Tensor, Tensor]", _OPS.silu_mul_fp8.default(x))


def round_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to float8_e4m3fn. `x` is about the result times the scales, (rows, 1)."""
    return cast("tuple[Tensor, Tensor]", _OPS.round_fp8.default(x))


def rotate_(x: Tensor, weight: Tensor | None, rope: Tensor, eps: float) -> None:
    """Apply RMSNorm to each head if there is a weight, then RoPE, in place.

    Args:
        x: Heads, each contiguous; may be a view of a wider product. Shape: (tokens, heads, dim)
        weight: Of the norm of each head. Shape: (heads, dim)
        rope: Cosine and sine in float32 for each pair of neighbours; (1, 0) for pairs that are not
            rotated. Shape: (tokens, dim / 2, 2)
        eps: Of the norm.
    """
    _OPS.rotate_.default(x, weight, rope, eps)


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
    """Rotate queries and keys like `rotate_`, and write keys and values after those of prefixes.

    Args:
        qkv: Any number of query heads, rotated in place, then key heads and value heads, which
            become undefined. Shape: (tokens, query heads + 2 * kv heads, dim)
        weight: Of query and key heads.
        rope: Like that of `rotate_`.
        eps: Of the norm.
        source: For each row of `key` and `value` where it comes from, int32: a token, or row
            `-1 - source` of the prefixes. Each token occurs once, and any number of times plus
            `REPEATED`. Rows of `NO_ROW` are undefined. Shape: (rows,)
        prefix_key: Rows may have any stride. Shape: (prefix tokens, kv heads, dim)
        prefix_value: Like `prefix_key`, with the same stride.
        key: Written. Shape: (rows, kv heads, dim)
        value: Written. Like `key`.
    """
    _OPS.rotate_and_join_.default(
        qkv, weight, rope, eps, source, prefix_key, prefix_value, key, value
    )


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make `out`, attention over one set of keys, attention over both of two disjoint sets.

    Shape of results: (tokens, heads, dim); of the log-sum-exp of their scores, in float32 and of
    any strides: (tokens, heads).
    """
    _OPS.merge_.default(out, lse, other, other_lse)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply rows with a matrix in int8, whose outputs have scales in float32.

    The scales are applied to the sums, which are in float32. Shapes: (rows, inputs),
    (outputs, inputs), (outputs,) -> (rows, outputs)
    """
    return cast("Tensor", _OPS.int8_linear.default(x, weight, scale))


def fixed_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows with a matrix. On CUDA, a row's result does not depend on the other rows.

    The weight may have another dtype. Shapes: (rows, inputs), (outputs, inputs) -> (rows, outputs)
    """
    return cast("Tensor", _OPS.fixed_linear.default(x, weight))

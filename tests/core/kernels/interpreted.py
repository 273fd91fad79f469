"""Run the Triton kernels under Triton's interpreter, against the operators' own definitions.

A program of its own, because Triton reads TRITON_INTERPRET when it is imported. It prints a JSON
object of errors, which `test_interpreted.py` reads.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from quernstone.attention.base import HeadShape
from quernstone.attention.flash import depends_on_batch, largest_error
from quernstone.kernels import launch
from quernstone.kernels.ops import DEFINITIONS
from quernstone.kernels.sources import NO_ROW, REPEATED

CPU, EPS = torch.device("cpu"), 1e-6
# Rows, outputs, inputs. Weights in int8 are converted for the last one.
PRODUCTS = ((1, 96, 200), (5, 64, 128), (150, 70, 72), (launch.CONVERTING_ROWS, 24, 16))
random = torch.Generator().manual_seed(0)


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=random).to(dtype)


def rope(tokens, dim):
    """Rotate three quarters of the pairs; the rest stay as they are."""
    angles = numbers(tokens, dim // 2) * 9
    angles[:, dim * 3 // 8 :] = 0
    return torch.stack((angles.cos(), angles.sin()), -1)


def heads(tokens, count, dim, dtype, *, wider=0):
    return numbers(tokens, count + wider, dim, dtype=dtype)[:, :count]


def cases(dtype):
    """Yield a name, an operator, and its inputs."""
    half = dtype != torch.float32
    for tokens, width in ((1, 1024), (5, 2560), (3, 96)):
        x = numbers(tokens, width, dtype=dtype) * torch.logspace(-2, 2, tokens)[:, None].to(dtype)
        x[0, 1] = 0
        weight = numbers(width, dtype=dtype)
        yield f"{tokens}x{width}", "rms_norm", (x, weight, EPS)
        yield f"{tokens}x{width}", "silu_mul", (x,)
        view = numbers(tokens, 2 * width, dtype=dtype)[:, :width]
        yield f"{tokens}x{width} view", "rms_norm", (view, weight, EPS)
        if half:
            yield f"{tokens}x{width}", "rms_norm_fp8", (x, weight, EPS)
            yield f"{tokens}x{width}", "silu_mul_fp8", (x,)
            yield f"{tokens}x{width}", "round_fp8", (x,)
    # Qwen3, Qwen2 0.5B and 1.5B, Llama 3.2, and heads that are a power of two in no part
    for query, kv, dim, norm in (
        (16, 8, 128, True),
        (14, 2, 64, False),
        (12, 2, 128, False),
        (24, 8, 128, False),
        (9, 3, 64, True),
        (0, 8, 128, True),  # the last layer's keys
        (16, 0, 128, True),  # and queries
    ):
        shape, tokens = f"{query}+{kv} heads of {dim}", 3
        count = query + kv
        weight = numbers(count, dim, dtype=dtype) if norm else None
        turns = rope(tokens, dim)
        for wider in (0, kv):
            x = heads(tokens, count, dim, dtype, wider=wider)
            yield f"{shape}, {wider} more", "rotate_", (x, weight, turns, EPS)
        if kv:
            qkv = numbers(tokens, count + kv, dim, dtype=dtype)
            prefix = numbers(4, 3, 2, kv, dim, dtype=dtype)[:, 1].unbind(1)  # a layer of three
            # one text after rows 0 and 1 of a prefix, one after rows 2 and 3, one without
            source = torch.tensor([2, -1, -2, 0, -3, -4, 1], dtype=torch.int32)
            joined = torch.full((2, len(source), kv, dim), 7.0, dtype=dtype)
            yield shape, "rotate_and_join_", (qkv, weight, turns, EPS, source, *prefix, *joined)
            # as a graph does: token 0 is the prefix of the others, and a row is left out
            source = torch.tensor([0, REPEATED, 2, REPEATED, 1, NO_ROW], dtype=torch.int32)
            none = qkv[:0, :kv]
            joined = torch.full((2, len(source), kv, dim), 7.0, dtype=dtype)
            inputs = (qkv, weight, turns, EPS, source, none, none, *joined)
            yield f"{shape}, repeated", "rotate_and_join_", inputs
    for count, dim in ((16, 128), (14, 64)):
        lse = numbers(count, 9) * 5
        other = (numbers(6, count, dim, dtype=dtype), numbers(count, 6).T)
        yield f"{count} heads", "merge_", (heads(9, count, dim, dtype)[3:], lse.T[3:], *other)


def products(dtype):
    """Yield the same for products, in float32: the interpreter multiplies bits of bfloat16."""
    if dtype != torch.float32:
        return
    random = torch.Generator().manual_seed(1)
    for rows, outputs, inputs in PRODUCTS:
        weight = torch.randint(-127, 128, (outputs, inputs), generator=random).to(torch.int8)
        scale = torch.rand(outputs, generator=random)
        x = torch.randn(rows, inputs + 8, generator=random).to(dtype)[:, :inputs]
        yield f"{rows}x{inputs}x{outputs}", "int8_linear", (x, weight, scale)
        other = torch.randn(outputs, inputs, generator=random)
        yield f"{rows}x{inputs}x{outputs}", "fixed_linear", (x, other)


def attention():
    """Yield what was computed by attention in float32, its error, and what changes with a batch."""
    for heads, kv_heads, dim in ((2, 1, 64), (1, 1, 128)):
        shape = HeadShape(heads, kv_heads, dim)
        error = largest_error(launch.varlen_attention, CPU, torch.float32, shape)
        changes = depends_on_batch(launch.varlen_attention, CPU, torch.float32, shape)
        yield f"{heads}+{kv_heads} heads of {dim}", {"error": error, "changes": changes}


def independent_rows():
    """Return by kernel whether its rows have the same bits when they are computed alone."""
    x, weight, norm = numbers(300, 96), numbers(200, 96), numbers(8, 32)
    few = x[:9]
    for name, inputs, others in (
        ("fixed_linear", [x], [weight]),
        ("rms_norm", [few], [weight[0], EPS]),
        ("silu_mul", [few], []),
        ("rotate_", [numbers(9, 8, 32), norm, rope(9, 32)], [EPS]),
        ("merge_", [numbers(9, *n) for n in ((2, 32), (2,), (2, 32), (2,))], []),
    ):
        rows = len(inputs[0])
        parts = [slice(0, 1), slice(5, 6), slice(rows - 3, rows), slice(rows // 3, rows // 2)]
        found = []
        for part in [slice(None), *parts]:
            taken = [each if each is norm else each[part].clone() for each in inputs]
            returned = getattr(launch, name)(*taken, *others)
            found.append(taken[0] if returned is None else returned)
        whole, *of_parts = found
        yield (
            name,
            [torch.equal(rows, whole[part]) for rows, part in zip(of_parts, parts, strict=True)],
        )


def copies(inputs):
    """Copy tensors with their strides."""
    return [copy(x) if isinstance(x, torch.Tensor) else x for x in inputs]


def copy(x):
    base = torch.empty(x.untyped_storage().size() // x.element_size(), dtype=x.dtype)
    base.copy_(torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()))
    return base.as_strided(x.size(), x.stride(), x.storage_offset())


def compare(name, inputs):
    """Return the largest error of what an operator returns or writes."""
    ours, theirs = copies(inputs), copies(inputs)
    found, expected = getattr(launch, name)(*ours), DEFINITIONS[name](*theirs)
    if name.endswith("fp8"):
        for left, right in zip(found, expected, strict=True):
            assert (left.shape, left.dtype) == (right.shape, right.dtype), name
        values, rounded = found[0].float().abs(), expected[0].float().abs()
        steps = (values - rounded).abs() / (rounded / 8).clamp_min(2**-9)
        # The interpreter halves numbers that are rounded up to a power of two.
        powers = rounded.log2() == rounded.log2().round()
        return {
            "scales": off(found[1], expected[1]),
            "values": float(steps[~powers].max()),
            "compared": float((~powers).float().mean()),
            "sign": bool((found[0].float() * expected[0].float() < 0).any()),
        }
    pairs = list(zip(ours, theirs, strict=True))
    if name == "rotate_and_join_":  # its key and value heads become undefined
        heads = ours[0].shape[1] - 2 * ours[-1].shape[1]
        pairs[0] = (ours[0][:, :heads], theirs[0][:, :heads])
        written = ours[4] != NO_ROW
        assert (ours[-1][~written] == 7).all()
        pairs[-2:] = [(ours[at][written], theirs[at][written]) for at in (-2, -1)]
    pairs.append((found, expected))
    errors = []
    for left, right in pairs:
        if isinstance(left, torch.Tensor):
            assert (left.shape, left.dtype) == (right.shape, right.dtype), name
            errors.append(off(left, right))
    return {"error": max(errors)}


def off(left, right):
    """Return the error, relative to the norm of the tensor."""
    left, right = left.double(), right.double()
    norm = right.norm()
    return float((left - right).norm() / norm) if norm else float(left.norm())


if __name__ == "__main__":
    results = {
        f"{dtype} {name} {what}": compare(name, inputs)
        for dtype in ("float32", "bfloat16")
        for make in (cases, products)
        for what, name, inputs in make(getattr(torch, dtype))
    }
    results |= {f"float32 varlen_attention {what}": found for what, found in attention()}
    results["float32 independent_rows"] = dict(independent_rows())
    print(json.dumps(results))

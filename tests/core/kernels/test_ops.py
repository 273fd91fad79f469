"""The operators' definitions, against the same steps written down naively."""

import pytest
import torch
import torch.nn.functional as F

from quernstone import kernels

EPS = 1e-6


def test_norm():
    x, weight = torch.randn(5, 96), torch.randn(96)
    torch.testing.assert_close(kernels.rms_norm(x, weight, EPS), F.rms_norm(x, (96,), weight, EPS))


def test_silu_of_one_half_times_the_other():
    x = torch.randn(7, 96, dtype=torch.bfloat16)
    expected = F.silu(x[:, :48].double()) * x[:, 48:].double()
    made = kernels.silu_mul(x)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=2**-7)


@pytest.mark.parametrize("tokens", [1, 2, 300])
def test_rounding_keeps_three_bits_of_every_number(tokens):
    x = torch.randn(tokens, 96, dtype=torch.bfloat16) * torch.logspace(-3, 3, tokens)[:, None]
    x = x.to(torch.bfloat16)
    x[0, 0] = 0
    rounded, scale = kernels.round_fp8(x)
    assert rounded.dtype == torch.float8_e4m3fn
    assert (scale.dtype, scale.shape) == (torch.float32, (tokens, 1))
    assert scale.is_contiguous()
    back = rounded.float() * scale
    # three bits after the first, and below 2**-6 of the scale as far apart as above
    error = (back - x.float()).abs()
    assert (error <= torch.maximum(x.float().abs() * 2**-4, scale * 2**-10)).all()
    torch.testing.assert_close(back.abs().amax(1), x.float().abs().amax(1))


def test_a_row_of_zeros_stays_one():
    rounded, scale = kernels.round_fp8(torch.zeros(3, 32, dtype=torch.bfloat16))
    assert torch.equal(rounded.float() * scale, torch.zeros(3, 32))


def test_fused_rounding_is_the_step_and_then_rounding():
    x, weight = torch.randn(5, 64), torch.randn(64)
    for fused, plain in [
        (kernels.rms_norm_fp8(x, weight, EPS), kernels.rms_norm(x, weight, EPS)),
        (kernels.silu_mul_fp8(x), kernels.silu_mul(x)),
    ]:
        for left, right in zip(fused, kernels.round_fp8(plain), strict=True):
            assert torch.equal(left.float(), right.float())


def turned(x, weight, angles):
    """Norm and RoPE of heads, (tokens, heads, dim), pair by pair as complex numbers."""
    x = x.double()
    if weight is not None:
        x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(-2).float()


def table(angles):
    return torch.stack((angles.cos(), angles.sin()), -1).float()


@pytest.mark.parametrize("normed", [True, False])
def test_heads_are_rotated_in_place_and_their_neighbours_are_not(normed):
    qkv, weight = torch.randn(5, 8, 16), torch.randn(6, 16) if normed else None
    angles = torch.randn(5, 8, dtype=torch.float64)
    expected = turned(qkv[:, :6], weight, angles)
    values = qkv[:, 6:].clone()
    kernels.rotate_(qkv[:, :6], weight, table(angles), EPS)
    torch.testing.assert_close(qkv[:, :6], expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(qkv[:, 6:], values)


def test_pairs_without_an_angle_stay_as_they_are():
    """So a rotation of a part of each head is a table that ends in zeros."""
    x, angles = torch.randn(3, 2, 16), torch.randn(3, 8, dtype=torch.float64)
    angles[:, 5:] = 0
    before = x.clone()
    kernels.rotate_(x, None, table(angles), EPS)
    assert torch.equal(x[..., 10:], before[..., 10:])
    assert not torch.equal(x[..., :10], before[..., :10])


@pytest.mark.parametrize("query_heads", [4, 0])
def test_keys_are_written_after_those_of_prefixes(query_heads):
    kv = 2
    qkv, weight = torch.randn(3, query_heads + 2 * kv, 16), torch.randn(query_heads + kv, 16)
    angles = torch.randn(3, 8, dtype=torch.float64)
    prefix_key, prefix_value = torch.randn(2, 5, kv, 16)
    expected, values = turned(qkv[:, :-kv], weight, angles), qkv[:, -kv:].clone()
    # a text of one token without a prefix, and two texts after the same three rows of one
    source = torch.tensor([1, -2, -3, -4, 0, -2, -3, -4, 2], dtype=torch.int32)
    key, value = torch.empty(2, len(source), kv, 16)
    kernels.rotate_and_join_(
        qkv, weight, table(angles), EPS, source, prefix_key, prefix_value, key, value
    )
    torch.testing.assert_close(qkv[:, :query_heads], expected[:, :query_heads])
    keys = expected[:, query_heads:]
    shared = (prefix_key[1:4], prefix_value[1:4])
    for joined, own, prefix in ((key, keys, shared[0]), (value, values, shared[1])):
        torch.testing.assert_close(joined, torch.cat((own[1:2], prefix, own[:1], prefix, own[2:])))


def test_merging_halves_gives_the_whole():
    scores, value = torch.randn(6, 4, 50), torch.randn(50, 4, 16)

    def attend(keys):
        out = torch.einsum("qhk,khd->qhd", scores[..., keys].softmax(-1), value[keys])
        return out, scores[..., keys].logsumexp(-1)

    whole, _ = attend(slice(None))
    out, lse = attend(slice(13))
    kernels.merge_(out, lse, *attend(slice(13, None)))
    torch.testing.assert_close(out, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("op", ["rms_norm", "rotate_", "merge_", "rotate_and_join_"])
def test_operators_are_dispatched_as_one(op):
    assert hasattr(torch.ops.quernstone, op)

"""Products with weights: packed for the CPU, and as torch itself computes them."""

import pytest
import torch
import torch.nn.functional as F

from quernstone import linear
from quernstone.linear import Linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=["packed where it can be", "never packed"])
def packing(request, monkeypatch):
    if request.param == "never packed":
        monkeypatch.setattr(linear, "_can_pack", lambda weight: False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products(packing, dtype, rows):
    random = torch.Generator().manual_seed(rows)
    x, weight, other = (
        torch.randn(shape, generator=random).to(dtype)
        for shape in [(rows, 96), (64, 96), (rows, 64)]
    )
    made = Linear(weight)
    product = F.linear(x.double(), weight.double())
    before = other.clone()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for result, expected in [
        (made(x), product),
        (made.silu(x), F.silu(product)),
        (made.times(x, other), product * other.double()),
        (made.plus(x, other), product + other.double()),
    ]:
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, atol=tolerance * 10, rtol=tolerance)
    assert torch.equal(other, before)


def test_another_dtype_uses_the_same_numbers(packing):
    """Rows that overflow are computed again in float32, with the weights as they are."""
    weight = torch.randn(64, 96).to(torch.bfloat16)
    x = torch.randn(5, 96)
    assert torch.equal(Linear(weight)(x), F.linear(x, weight.float()))


def test_weights_are_packed_where_onednn_is():
    weight = torch.randn(8, 8)
    expected = torch.backends.mkldnn.is_available() and linear.platform.machine() in (
        "x86_64",
        "AMD64",
    )
    assert Linear(weight)._packed == expected

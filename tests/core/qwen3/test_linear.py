"""Products with weights: packed for the CPU, and as torch itself computes them."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from quernstone import Embedder
from quernstone.qwen3 import linear
from quernstone.qwen3.linear import BiasedLinear, Linear

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
        (made.mul(x, other), product * other.double()),
        (made.add(x, other.clone()), product + other.double()),
    ]:
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, atol=tolerance * 10, rtol=tolerance)
    assert torch.equal(other, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_biases(packing, dtype):
    random = torch.Generator().manual_seed(0)
    x, weight, bias, other = (
        torch.randn(shape, generator=random).to(dtype) for shape in [(7, 96), (64, 96), 64, (7, 64)]
    )
    made = BiasedLinear(Linear(weight), bias)
    product = F.linear(x.double(), weight.double(), bias.double())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for result, expected in [
        (made(x), product),
        (made.silu(x), F.silu(product)),
        (made.mul(x, other), product * other.double()),
        (made.add(x, other.clone()), product + other.double()),
    ]:
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, atol=tolerance * 10, rtol=tolerance)
    assert torch.equal(made(x.float()), F.linear(x.float(), weight.float()) + bias.float())


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


def test_matrices_have_few_numbers_of_rows(monkeypatch):
    """Kernels are compiled for each: texts of 1 to 100 words, one to a batch."""
    rows = set()
    call = Linear.__call__
    monkeypatch.setattr(Linear, "__call__", lambda self, x: rows.add(len(x)) or call(self, x))
    with Embedder("tiny", deterministic=True) as embedder:
        embedder.embed_documents([" ".join(["word"] * count) for count in range(1, 101)])
    assert rows == set(range(8, 105, 8))


_GROWTH = """
import random, resource
from quernstone import Embedder

words = "the of and quick brown fox jumps over a lazy dog".split()
words = random.Random(0).choices(words, k=99_999)
starts = random.Random(1)

def texts(count):
    for _ in range(count):
        start = starts.randrange(90_000)
        yield " ".join(words[start : start + starts.randrange(2, 40)])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

embedder = Embedder("tiny", dtype="bfloat16")
for _ in embedder.stream(texts(4_000)):
    pass
before = peak()
for _ in embedder.stream(texts(12_000)):
    pass
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shapes_of_batches():
    """Kernels are kept for few shapes: with torch's own limits this grows by hundreds of MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 220

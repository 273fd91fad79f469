"""Weights in 8-bit floating point. A CPU multiplies them, too, slowly: the numbers are real."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.support import gpu_stand_ins

from quernstone import ConfigError, Embedder, Reranker
from quernstone.kernels import Rounded, rms_norm_fp8, round_fp8
from quernstone.qwen3.fp8 import Fp8Linear


def tensors(rows, dtype=torch.bfloat16):
    random = torch.Generator().manual_seed(rows)
    shapes = [(rows, 96), (64, 96), (rows, 64)]
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products(rows):
    x, weight, other = tensors(rows)
    x *= torch.logspace(-3, 3, rows, dtype=torch.bfloat16)[:, None]  # a scale for each token
    sizes = torch.logspace(-2, 2, 64, dtype=torch.bfloat16)
    weight *= sizes[:, None]  # and for each output
    product = F.linear(x.double(), weight.double())
    made = Fp8Linear(weight)
    (rounded, scale), (rounded_weight, weight_scale) = round_fp8(x), round_fp8(weight)
    exact = F.linear(rounded.double() * scale, rounded_weight.double() * weight_scale)
    result = made(x)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), exact, atol=0, rtol=2**-7)
    error = ((result - product) / sizes).norm(dim=1) / (product / sizes).norm(dim=1)
    assert error.max() < 0.06
    expected = result.float() + other.float()
    torch.testing.assert_close(made.add(x, other).float(), expected, atol=0, rtol=2**-7)


def test_float32_multiplies_with_the_rounded_weights():
    x, weight, _ = tensors(5)
    rounded, scale = round_fp8(weight)
    torch.testing.assert_close(
        Fp8Linear(weight)(x.float()), F.linear(x.float(), rounded.float() * scale)
    )


def test_rows_that_are_rounded_already_are_not_rounded_again():
    x, weight, other = tensors(5)
    norm = torch.ones(96, dtype=x.dtype)
    made = Fp8Linear(weight)
    rounded = Rounded(*rms_norm_fp8(x, norm, 1e-6), x.dtype)
    result = made(rounded)
    assert result.dtype == torch.bfloat16
    rounded_weight, weight_scale = round_fp8(weight)
    exact = F.linear(
        rounded.values.double() * rounded.scale, rounded_weight.double() * weight_scale
    )
    torch.testing.assert_close(result.double(), exact, atol=0, rtol=2**-7)
    torch.testing.assert_close(made.add(rounded, other.clone()), result + other)


def test_products_accumulate_fast(monkeypatch):
    """On an H100 they are slower than bfloat16 otherwise."""
    product, given = torch._scaled_mm, []

    def recorded(*inputs, **settings):
        given.append(settings["use_fast_accum"])
        return product(*inputs, **settings)

    monkeypatch.setattr(torch, "_scaled_mm", recorded)
    x, weight, _ = tensors(5)
    Fp8Linear(weight)(x)
    assert given == [True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_become_a_number(bad):
    x, weight, _ = tensors(3)
    x[1, 5] = bad
    product = Fp8Linear(weight)(x)
    assert torch.isfinite(product[[0, 2]]).all()
    assert not torch.isfinite(product[1]).any()


def test_operands_are_laid_out_as_cuda_asks():
    """Checked by torch's own rules for a device, on tensors without numbers."""
    weight = torch.empty(64, 96, dtype=torch.bfloat16, device="meta")
    x = torch.empty(7, 96, dtype=torch.bfloat16, device="meta")
    made = Fp8Linear(weight)
    assert made._weight.T.stride() == (1, 96)  # the columns of the second operand
    assert made._scale.shape == (1, 64)
    assert made._scale.is_contiguous()
    assert made(x).shape == (7, 64)


TEXTS = [
    " ".join(["a quern grinds grain", "rain", "汉字"][: n % 3 + 1]) + f" {n}" for n in range(40)
]


def test_embeddings_and_scores_stay_close_to_float32(monkeypatch):
    pairs = [("what grinds grain?", text) for text in TEXTS]
    with Embedder("tiny", dtype="float32") as exact, Reranker("tiny", dtype="float32") as judge:
        vectors, scores = exact.embed_documents(TEXTS), judge.score(pairs)
        fingerprint = exact.fingerprint
    gpu_stand_ins.use(monkeypatch, record=gpu_stand_ins.Recorder())
    monkeypatch.setattr("quernstone.engines.torch.engine.can_compute_fp8", lambda device: True)
    with Embedder("tiny", dtype="fp8") as rounded, Reranker("tiny", dtype="fp8") as judge:
        assert rounded.info.dtype == "fp8"
        assert rounded.fingerprint != fingerprint
        cosines = (rounded.embed_documents(TEXTS) * vectors).sum(axis=1)
        assert 0.99 <= cosines.min() < 0.99999
        assert np.abs(judge.score(pairs) - scores).max() < 0.1


def test_a_device_that_cannot_refuses_it():
    with pytest.raises(ConfigError, match=r'compute capability 8.9 or later.*Use `dtype="auto"`'):
        Embedder("tiny", dtype="fp8", device="cpu")


def test_other_engines_refuse_it():
    with pytest.raises(ConfigError, match=r'"fp8"` is for `engine="torch"`; others take float32'):
        Embedder("tiny", engine="transformers", dtype="fp8")

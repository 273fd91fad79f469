"""Weights in int8 with activations in bfloat16, as on GPUs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.support import gpu_stand_ins

from quernstone import Embedder, Reranker
from quernstone.qwen3.weight_only import WeightOnlyLinear

TEXTS = [" ".join(["the mill grinds grain"] * n) for n in range(1, 9)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_close_to_the_exact_ones(dtype):
    weight, x = torch.randn(96, 200), torch.randn(7, 200).to(dtype)
    linear, exact = WeightOnlyLinear(weight), F.linear(x.float(), weight)
    found = linear(x)
    assert found.dtype == dtype
    assert (found.float() - exact).norm() / exact.norm() < 0.01
    other = torch.ones(7, 96, dtype=dtype)
    torch.testing.assert_close(linear.add(x, other.clone()), found + other)


def test_vectors_and_scores_are_close_to_those_of_bfloat16(monkeypatch):
    with Embedder("tiny", dtype="bfloat16") as plain, Reranker("tiny", dtype="bfloat16") as scorer:
        vectors, scores = plain.embed_documents(TEXTS), scorer.score([("grain", t) for t in TEXTS])
    gpu_stand_ins.use(monkeypatch)
    monkeypatch.setattr("quernstone.engines.torch.engine.can_compute_int8", lambda: True)
    settings = {"dtype": "int8", "max_batch_tokens": 4095}  # models of their own
    with Embedder("tiny", **settings) as rounded, Reranker("tiny", **settings) as reranker:
        assert rounded.info.dtype == "int8"
        cosines = (rounded.embed_documents(TEXTS) * vectors).sum(1)
        assert 0.99 < cosines.min() < 1
        assert np.abs(reranker.score([("grain", t) for t in TEXTS]) - scores).max() < 0.1


def test_a_gpu_may_compute_in_int8():
    from quernstone.engines.torch.engine import _computing_dtype

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        assert _computing_dtype("int8", torch.device("cuda", 0)) == torch.bfloat16

"""Weights in int8: products close to the exact ones, and what that costs in quality."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quernstone import ConfigError, Embedder, Reranker
from quernstone.qwen3.int8 import Int8Linear, can_compute_int8

HELD_OUT = Path(__file__).parents[2] / "data" / "tiny_heldout.jsonl.gz"

if not can_compute_int8():
    pytest.skip("this CPU has no VNNI", allow_module_level=True)


@pytest.fixture(scope="module")
def held_out():
    with gzip.open(HELD_OUT, "rt") as file:
        rows = [json.loads(line) for line in file][:1000]
    return [row["query"] for row in rows], [row["document"] for row in rows]


def tensors(rows, dtype):
    random = torch.Generator().manual_seed(rows)
    shapes = [(rows, 96), (64, 96), (rows, 64)]
    return (torch.randn(shape, generator=random).to(dtype) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products(dtype, rows):
    x, weight, other = tensors(rows, dtype)
    x *= torch.logspace(-3, 3, rows, dtype=dtype)[:, None]  # each token has a scale of its own
    product = F.linear(x.double(), weight.double())
    before = [given.clone() for given in (x, weight, other)]
    made = Int8Linear(weight)
    for result, expected in [
        (made(x), product),
        (made.silu(x), F.silu(product)),
        (made.mul(x, other), product * other.double()),
        (made.add(x, other), product + other.double()),
    ]:
        assert result.dtype == dtype
        error = (result.double() - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() < 0.03
    for given, copy in zip((x, weight, other), before, strict=True):
        assert torch.equal(given, copy)


def test_a_row_of_zeros_stays_one():
    x, weight, _ = tensors(3, torch.bfloat16)
    x[1] = 0
    assert torch.equal(Int8Linear(weight)(x)[1], torch.zeros(64, dtype=torch.bfloat16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_become_a_number(bad):
    x, weight, _ = tensors(3, torch.float32)
    x[1, 5] = bad
    product = Int8Linear(weight)(x)
    assert torch.isfinite(product[[0, 2]]).all()
    assert not torch.isfinite(product[1]).any()


def ndcg_at_10(queries, documents):
    scores = queries @ documents.T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    return float(np.where(ranks < 10, 1 / np.log2(2 + ranks), 0).mean())


@pytest.mark.slow
def test_embeddings_stay_close_to_float32(held_out):
    vectors = {}
    for dtype in ("float32", "int8"):
        with Embedder("tiny", dtype=dtype) as embedder:
            assert embedder.info.dtype == dtype
            vectors[dtype] = [
                embedder.embed_queries(held_out[0]),
                embedder.embed_documents(held_out[1]),
            ]
    for exact, rounded in zip(vectors["float32"], vectors["int8"], strict=True):
        assert (exact * rounded).sum(axis=1).min() >= 0.99
    assert abs(ndcg_at_10(*vectors["float32"]) - ndcg_at_10(*vectors["int8"])) <= 0.01


def test_scores_stay_close_to_float32(held_out):
    pairs = [(held_out[0][i], held_out[1][j]) for i in range(10) for j in range(i, i + 3)]
    scores = {}
    for dtype in ("float32", "int8"):
        with Reranker("tiny", dtype=dtype) as reranker:
            scores[dtype] = reranker.score(pairs)
    assert np.abs(scores["float32"] - scores["int8"]).max() < 0.1
    assert not np.array_equal(scores["float32"], scores["int8"])


def test_a_fingerprint_of_its_own():
    with Embedder("tiny", dtype="int8") as rounded, Embedder("tiny", dtype="float32") as exact:
        assert rounded.fingerprint != exact.fingerprint


def test_other_engines_refuse_it():
    with pytest.raises(ConfigError, match=r'is for `engine="torch"`; others take float32'):
        Embedder("tiny", engine="transformers", dtype="int8")


def test_a_cpu_without_vnni_refuses_it(monkeypatch):
    monkeypatch.setattr("quernstone.engines.torch.engine.can_compute_int8", lambda: False)
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU or an x86 CPU with VNNI"):
        Embedder("tiny", dtype="int8", max_batch_tokens=77)  # a model that no other test loads

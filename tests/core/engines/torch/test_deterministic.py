"""`deterministic=True`: the same bits in whatever company."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.support import gpu_stand_ins

from quernstone import ConfigError, Embedder, Reranker
from quernstone.attention import HeadShape, varlen
from quernstone.attention.flash import depends_on_batch
from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.torch import deterministic
from quernstone.engines.torch import engine as torch_engine
from quernstone.engines.torch.engine import TorchEngine
from quernstone.kernels.ops import DEFINITIONS
from quernstone.qwen3 import fixed
from quernstone.types import Encoded, EngineConfig, Prefix

WORDS = "a mill grinds grain 汉字 rain\n and the stone, turns 9 times".split(" ")
COMPOSITIONS = 50


@pytest.fixture(scope="module")
def texts():
    choose = random.Random(0)
    return ["", *(" ".join(choose.choices(WORDS, k=choose.randrange(1, 90))) for _ in range(25))]


def compositions(texts):
    """Some of the texts, in any order."""
    choose = random.Random(1)
    for _ in range(COMPOSITIONS):
        yield choose.sample(range(len(texts)), k=choose.randrange(1, 9))


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("transformers", "float32"),
        ("sentence-transformers", "float32"),
    ],
)
def test_vectors_are_equal_to_the_last_bit(checkpoints, texts, engine, dtype):
    folder = str(checkpoints("embedding-0.6b"))
    with Embedder(folder, engine=engine, dtype=dtype, deterministic=True) as embedder:
        documents = embedder.embed_documents(texts)
        queries = embedder.embed_queries(texts)

        def together(places):
            some = [texts[place] for place in places]
            np.testing.assert_array_equal(embedder.embed_documents(some), documents[places])
            np.testing.assert_array_equal(embedder.embed_queries(some), queries[places])

        with ThreadPoolExecutor(4) as threads:  # and with what other callers ask meanwhile
            list(threads.map(together, compositions(texts)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_equal_to_the_last_bit(checkpoints, texts, dtype):
    folder = str(checkpoints("reranker-0.6b"))
    asked = ["what grinds grain?", "rain", ""]
    with Reranker(folder, dtype=dtype, deterministic=True) as reranker:
        pairs = [(query, text) for query in asked for text in texts]
        scores = reranker.score(pairs)
        for places in compositions(pairs):
            some = [pairs[place] for place in places]
            np.testing.assert_array_equal(reranker.score(some), scores[places])
        [_, ranked, _] = reranker.rerank_many(asked, texts)
        assert ranked == reranker.rerank(asked[1], texts)


def test_only_where_we_plan_the_batches():
    with pytest.raises(ConfigError, match='`engine="remote"` plans its own batches'):
        Embedder("http://localhost:8000", engine="remote", deterministic=True)
    with pytest.raises(ConfigError, match="leave `max_batch_tokens` out"):
        Reranker("tiny", deterministic=True, max_batch_tokens=100)


def product_by_row(x, weight):
    return torch.stack([weight.to(x.dtype) @ row for row in x])


def attention_by_row(q, k, v, cu_q, cu_k, max_q, max_k, *, causal):
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:2])
    repeat = q.shape[1] // k.shape[1]
    for (a, b), (c, d) in zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True):
        for row in range(a, b):
            seen = slice(c, d - (b - 1 - row) if causal else d)
            keys, values = (x[seen].repeat_interleave(repeat, 1) for x in (k, v))
            scores = torch.einsum("hd,khd->hk", q[row], keys) / q.shape[2] ** 0.5
            out[row] = torch.einsum("hk,khd->hd", scores.softmax(-1), values)
            lse[row] = scores.logsumexp(-1)
    return out, lse


def merge_by_row(out, lse, *other):
    for row in range(len(out)):
        DEFINITIONS["merge_"](*(x[row : row + 1] for x in (out, lse, *other)))


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_batches_on_a_gpu(monkeypatch, task):
    """Steps whose rows do not depend on each other make results so: there are no other steps.

    The stand-ins for them compute row by row.
    """
    monkeypatch.setattr(varlen, "merge_", merge_by_row)
    maker = varlen.varlen_maker("by row", attention_by_row, joins=lambda batch: False)
    gpu_stand_ins.use(monkeypatch, fixed=(maker, maker))
    for module in (fixed, torch_engine):
        monkeypatch.setattr(module, "fixed_linear", product_by_row)

    def load(**settings):
        checkpoint = resolve("tiny", task, None)
        folder, size = checkpoint.folder, checkpoint.vocab_size
        place = {"engine": "torch", "device": "cpu", "dtype": "float32"}
        config = EngineConfig(task=task, model=str(folder), **place, **settings)
        return TorchEngine(config, checkpoint, Tokenizer(folder, size))

    parent = Prefix(np.arange(20, 27, dtype=np.int32))
    prefixes = [None, Prefix(np.arange(20, 40, dtype=np.int32), parent), parent]
    batch = [
        Encoded((np.arange(1 + 3 * n) * 7 % 900 + n).astype(np.int32), prefixes[n % 3])
        for n in range(12)
    ]
    engine = load(max_batch_tokens=1)
    assert engine.info.max_batch_tokens > 1000
    assert engine.info.attention == "by row"
    whole = engine.run(batch)
    choose = random.Random(3)
    for other in (engine, load(max_batch_tokens=1)):  # with prefixes in its cache, and without
        for count in (1, 2, 5, 11):
            places = choose.sample(range(len(batch)), k=count)
            np.testing.assert_array_equal(other.run([batch[n] for n in places]), whole[places])
    np.testing.assert_allclose(whole, load().run(batch), atol=3e-5, rtol=1e-4)


MAKER = varlen.varlen_maker("by row", attention_by_row)


@pytest.mark.parametrize(
    ("device", "rounding", "attention", "independent", "fixed"),
    [
        ("cuda", None, MAKER, True, True),
        ("cpu", None, MAKER, True, False),
        ("cuda", "fp8", MAKER, True, False),
        ("cuda", None, None, True, False),
        ("cuda", None, MAKER, False, False),
    ],
    ids=["all is well", "CPU", "fp8", "no kernel", "rows depend on each other"],
)
def test_batches_only_where_nothing_depends_on_them(
    monkeypatch, device, rounding, attention, independent, fixed
):
    monkeypatch.setattr(deterministic, "choose_fixed_attention", lambda *inputs: attention)
    monkeypatch.setattr(deterministic, "rows_are_independent", lambda *inputs: independent)
    checkpoint = resolve("tiny", "embed", None)
    chosen = deterministic.choose_fixed(
        checkpoint, torch.device(device), torch.bfloat16, rounding=rounding
    )
    assert (chosen is not None) == fixed


@pytest.mark.parametrize("depends", [False, True])
def test_probes_see_what_depends_on_a_batch(monkeypatch, depends):
    def product(x, weight):
        return product_by_row(x, weight.float()) + (x.mean() if depends else 0)

    def attention(q, *rest, causal):
        out, lse = attention_by_row(q, *rest, causal=causal)
        return out + (q.mean() if depends else 0), lse

    cpu, config = torch.device("cpu"), resolve("tiny", "embed", None).decoder_config()
    monkeypatch.setattr(fixed, "fixed_linear", product)
    assert fixed.rows_are_independent(config, cpu, torch.float32) != depends
    assert depends_on_batch(attention, cpu, torch.float32, HeadShape(2, 1, 16)) == depends

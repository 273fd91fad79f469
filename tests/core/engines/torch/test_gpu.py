"""What only a GPU can show. Skipped without one; all around the device is tested by stand-ins in
`test_graphs.py`, `test_worker_overlap.py`, `test_elementwise.py` and `test_fp8.py`."""

import logging
import random
import time

import numpy as np
import pytest
import torch
from tests.support.forks import run_program

from quernstone import Embedder, Reranker
from quernstone.attention import choose_attention
from quernstone.attention.sdpa import SdpaAttention
from quernstone.batching import pack
from quernstone.engines.torch import engine
from quernstone.types import Encoded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

WORDS = "a mill grinds grain 汉字 rain\n and the stone, turns 9 times".split(" ")
QUERY = "what grinds grain?"


def texts(count=60, longest=300, seed=0):
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randrange(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def folders(checkpoints):
    """28 layers of the 0.6B shape, narrower, and as many of the reranker's."""
    settings = {"layers": 28, "width": 2, "dtype": torch.bfloat16}
    return {
        task: str(checkpoints(f"{task}-0.6b", **settings)) for task in ("embedding", "reranker")
    }


def capable(major, minor):
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (major, minor)


needs_flash = pytest.mark.skipif(
    not capable(8, 0), reason="no CUDA device of compute capability 8.0"
)
needs_fp8 = pytest.mark.skipif(not capable(8, 9), reason="no CUDA device of compute capability 8.9")


@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_embeddings_equal_transformers(folders, dtype, cosine):
    settings = {"device": "cuda", "dtype": dtype}
    with (
        Embedder(folders["embedding"], **settings) as ours,
        Embedder(folders["embedding"], device="cpu", dtype="float32", engine="transformers") as t,
    ):
        assert ours.info.device.startswith("cuda")
        assert (ours.embed_documents(texts()) * t.embed_documents(texts())).sum(1).min() >= cosine
        for text in texts(5):  # by a graph
            assert ours.embed_query(text) @ t.embed_query(text) >= cosine


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_scores_equal_transformers(folders, dtype, atol):
    pairs = [(f"{QUERY} {n % 2}", text) for n, text in enumerate(texts())]
    with (
        Reranker(folders["reranker"], device="cuda", dtype=dtype) as ours,
        Reranker(folders["reranker"], device="cpu", dtype="float32", engine="transformers") as t,
        Reranker(folders["reranker"], device="cuda", dtype=dtype, prefix_sharing=False) as whole,
    ):
        scores = ours.score(pairs)
        np.testing.assert_allclose(scores, t.score(pairs), atol=atol)
        np.testing.assert_allclose(scores, whole.score(pairs), atol=atol)


@needs_flash
def test_the_kernel_is_a_flash_kernel(folders):
    with Embedder(folders["embedding"], device="cuda", dtype="bfloat16") as embedder:
        assert embedder.info.attention != "sdpa"


@needs_flash
@pytest.mark.parametrize("lengths", [[1], [5, 5], [300, 40, 39, 7, 1, 1], [128] * 9], ids=str)
def test_attention_equals_matrix_products(lengths):
    """Grouped heads, views of one product as the model has them, and the last tokens' swap."""
    device = torch.device("cuda")
    batch = pack([Encoded(np.zeros(n, dtype=np.int32)) for n in lengths])
    qkv = torch.randn(sum(lengths), 16 + 2 * 8, 128, device=device, dtype=torch.bfloat16)
    query, key, value = qkv.split([16, 8, 8], 1)
    maker = choose_attention(device, torch.bfloat16)
    integers = [torch.from_numpy(each).to(device) for each in maker.integers(batch)]
    flash, products = maker.make(batch, integers), SdpaAttention(batch, device)
    ends = torch.tensor(batch.cu_seqlens[1:], device=device) - 1
    for made, expected in [
        (flash.all_tokens(query, key, value, None), products.all_tokens(query, key, value, None)),
        (
            flash.last_tokens(query[ends], key, value, None),
            products.last_tokens(query[ends], key, value, None),
        ),
    ]:
        torch.testing.assert_close(made, expected, atol=2e-2, rtol=2e-2)


@needs_flash
def test_graphs_change_nothing(folders, monkeypatch, caplog):
    settings = {"device": "cuda", "dtype": "bfloat16"}
    pairs = [(QUERY, text) for text in texts(3, longest=20)]
    with (
        caplog.at_level(logging.WARNING, "quernstone"),
        Embedder(folders["embedding"], **settings) as embedder,
        Reranker(folders["reranker"], **settings) as reranker,
    ):
        for user in (embedder, reranker):
            while "recording" in user.info.graphs:
                time.sleep(0.02)
            assert "stopped" not in user.info.graphs
        vectors = np.stack([embedder.embed_query(text) for text in texts(30)])
        scores = reranker.score(pairs)
    assert not any("no CUDA graph" in message for message in caplog.messages)
    monkeypatch.setattr(engine, "choose_recorder", lambda device: None)
    with (
        Embedder(folders["embedding"], **settings, max_batch_tokens=8000) as embedder,
        Reranker(folders["reranker"], **settings, max_batch_tokens=8000) as reranker,
    ):
        plain = np.stack([embedder.embed_query(text) for text in texts(30)])
        assert (vectors * plain).sum(1).min() >= 0.999
        np.testing.assert_allclose(scores, reranker.score(pairs), atol=0.03)


def test_steps_are_kernels(folders, caplog):
    with (
        caplog.at_level(logging.WARNING, "quernstone"),
        Embedder(folders["embedding"], device="cuda", max_batch_tokens=5000) as embedder,
    ):
        embedder.embed_documents(texts())
    assert not any("operation by operation" in message for message in caplog.messages)


@needs_fp8
def test_fp8_stays_close(folders):
    settings = {"device": "cuda"}
    pairs = [(QUERY, text) for text in texts()]
    with (
        Embedder("tiny", **settings, dtype="fp8") as rounded,
        Embedder("tiny", **settings, dtype="float32") as exact,
    ):
        cosines = (rounded.embed_documents(texts()) * exact.embed_documents(texts())).sum(1)
    assert 0.98 <= cosines.min() < 0.99999
    with (
        Reranker("tiny", **settings, dtype="fp8") as rounded,
        Reranker("tiny", **settings, dtype="float32") as exact,
    ):
        assert np.abs(rounded.score(pairs) - exact.score(pairs)).max() < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_deterministic_vectors_are_equal_to_the_last_bit(folders, dtype):
    settings = {"device": "cuda", "dtype": dtype, "deterministic": True}
    several = texts(25, longest=90)
    with Embedder(folders["embedding"], **settings) as embedder:
        vectors = embedder.embed_documents(several)
        choose = random.Random(1)
        for _ in range(50):
            places = choose.sample(range(25), k=choose.randrange(1, 9))
            some = [several[place] for place in places]
            np.testing.assert_array_equal(embedder.embed_documents(some), vectors[places])


@needs_flash
def test_launches_overlap(folders, monkeypatch):
    """What is fetched arrives in order, whatever was launched meanwhile."""
    settings = {"device": "cuda", "dtype": "bfloat16", "max_batch_tokens": 2048}
    with Embedder(folders["embedding"], **settings) as embedder:
        several = texts(300)
        together = embedder.embed_documents(several)
        alone = np.stack([embedder.embed_documents([text])[0] for text in several[:40]])
    assert (together[:40] * alone).sum(1).min() >= 0.999


def test_a_fork_of_a_process_that_used_cuda_is_an_error():
    run_program("""
import numpy as np
from tests.support.forks import in_child

from quernstone import Embedder

embedder, texts = Embedder("tiny", dtype="float32"), ["a mill grinds grain", "it rains"]
expected = embedder.embed_documents(texts)


def new(device):
    return Embedder("tiny", dtype="float32", device=device, max_batch_tokens=999)


def error_of(work):
    try:
        work().embed_documents(texts)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for work in (lambda: embedder, lambda: new("auto"), lambda: new("cuda:0")):
    message = in_child(lambda: error_of(work))
    assert message.startswith("EngineError: "), message
    assert "load the model after the fork" in message, message
    assert "`spawn`" in message, message
child = in_child(lambda: new("cpu").embed_documents(texts))
np.testing.assert_allclose(child, expected, atol=1e-3)
np.testing.assert_allclose(embedder.embed_documents(texts), expected, atol=1e-6)
""")

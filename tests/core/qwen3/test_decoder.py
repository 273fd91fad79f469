"""Exactness: our packed engine against transformers, on random checkpoints of the real layouts.

The tokenizers are the official ones; the weights are noise at reduced depth and width.
"""

import numpy as np
import pytest
import torch
from tests.support.checkpoints import SHAPES

from quernstone import Embedder, Reranker


def layouts(kind):
    """Return the layouts of a kind of model; the widest run in `make test-all`."""
    return [
        pytest.param(layout, marks=[pytest.mark.slow] if layout.endswith("8b") else [])
        for layout in SHAPES
        if layout.startswith(kind)
    ]


LENGTHS = [1, 2, 3, 7, 8, 9, 30, 31, 60, 100, 120, 257, 300, 511, 900, 1300, 2000]
WORDS = "the a quick fox jumps über 中文 字 <think> import of importance , . ! \n 12 naïve".split(
    " "
)


@pytest.fixture(scope="module")
def texts():
    """Texts of 1 to about 2,000 tokens, in no order."""
    random = np.random.default_rng(7)
    made = [" ".join(random.choice(WORDS, max(1, n * 3 // 4))) for n in LENGTHS]
    return [made[i] for i in random.permutation(len(made))]


@pytest.mark.parametrize("layout", layouts("embedding"))
def test_embeddings_equal_transformers(layout, checkpoints, texts):
    folder = str(checkpoints(layout))
    with (
        Embedder(folder, dtype="float32") as ours,
        Embedder(folder, dtype="float32", engine="transformers") as theirs,
    ):
        assert (ours.info.engine, theirs.info.engine) == ("torch", "transformers")
        documents = ours.embed_documents(texts)
        np.testing.assert_allclose(documents, theirs.embed_documents(texts), atol=2e-6, rtol=0)
        np.testing.assert_allclose(
            ours.embed_queries(texts), theirs.embed_queries(texts), atol=2e-6, rtol=0
        )
        alone = np.stack([ours.embed_documents([text])[0] for text in texts])
        np.testing.assert_allclose(documents, alone, atol=1e-6, rtol=0)
        assert np.abs(documents[0] - documents[1]).max() > 0.01  # not all the same


@pytest.mark.parametrize("layout", layouts("reranker"))
@pytest.mark.parametrize("template", ["card", "eval"])
def test_scores_equal_transformers(layout, template, checkpoints, texts):
    folder = str(checkpoints(layout))
    queries = ["what is a quern?", "importance of mills " * 60]
    pairs = [(queries[i % 2], text) for i, text in enumerate(texts)]
    settings = {"dtype": "float32", "template": template}
    with (
        Reranker(folder, **settings) as ours,
        Reranker(folder, engine="transformers", **settings) as theirs,
        Reranker(folder, prefix_sharing=False, **settings) as unshared,
    ):
        scores = ours.score(pairs)
        np.testing.assert_allclose(scores, theirs.score(pairs), atol=2e-6, rtol=0)
        np.testing.assert_allclose(scores, unshared.score(pairs), atol=1e-6, rtol=0)
        alone = [ours.score([pair])[0] for pair in pairs]
        np.testing.assert_allclose(scores, alone, atol=1e-6, rtol=0)
        assert np.ptp(scores) > 0.01


@pytest.mark.slow
def test_bfloat16_stays_close_to_float32_at_full_depth(checkpoints, texts):
    """28 layers of the real 0.6B shape."""
    folder = str(checkpoints("embedding-0.6b", layers=28, width=1, dtype=torch.bfloat16))
    short = [text for text in texts if len(text) < 2000]
    with Embedder(folder, dtype="bfloat16") as half, Embedder(folder, dtype="float32") as full:
        cosines = (half.embed_documents(short) * full.embed_documents(short)).sum(axis=1)
    assert cosines.min() >= 0.999

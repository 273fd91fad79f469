"""`deterministic=True`: the same bits in whatever company."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quernstone import ConfigError, Embedder, Reranker

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
    with pytest.raises(ConfigError, match='not for `engine="remote"`'):
        Embedder("http://localhost:8000", engine="remote", deterministic=True)
    with pytest.raises(ConfigError, match="leave `max_batch_tokens` out"):
        Reranker("tiny", deterministic=True, max_batch_tokens=100)

"""The stock class drops the query prompt that the checkpoint stores; ours does not."""

import numpy as np
import pytest
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

import quernstone.models
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from quernstone import Embedder

QUERY = "grinding grain by hand"


@pytest.fixture(scope="module")
def folder() -> str:
    return str(quernstone.models.resolve("tiny", "embed").folder)


def test_stock_query_is_not_the_model_s(folder):
    stock = HuggingFaceEmbedding(model_name=folder, device="cpu")
    ours = QuernstoneEmbedding(model_name=folder, dtype="float32")
    with Embedder(folder, dtype="float32") as core:
        expected = core.embed_query(QUERY)
        bare = core.embed_documents([QUERY])[0]
    assert ours.get_query_embedding(QUERY) == expected.tolist()
    vector = stock.get_query_embedding(QUERY)
    assert not np.allclose(vector, expected, atol=1e-3)
    assert np.allclose(vector, bare, atol=1e-4), "the stock class embeds the query as a text"
    assert np.allclose(stock.get_text_embedding("a\nb"), ours.get_text_embedding("a\nb"), atol=1e-4)

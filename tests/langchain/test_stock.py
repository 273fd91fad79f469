"""The stock class drops the query prompt that the checkpoint stores; ours does not.

On random weights in the layout of Qwen3-Embedding-0.6B, with its tokenizer and side files.
"""

import numpy as np
import pytest
from langchain_huggingface import HuggingFaceEmbeddings

from langchain_quernstone import QuernstoneEmbeddings
from quernstone import Embedder

QUERY = "grinding grain by hand"


@pytest.fixture(scope="module")
def folder(checkpoints) -> str:
    return str(checkpoints("embedding-0.6b"))


@pytest.fixture(scope="module")
def stock(folder):
    return HuggingFaceEmbeddings(model_name=folder, model_kwargs={"device": "cpu"})


@pytest.fixture(scope="module")
def ours(folder):
    return QuernstoneEmbeddings(model_name=folder, dtype="float32")


def test_stock_query_is_not_the_model_s(stock, ours, folder):
    with Embedder(folder, dtype="float32") as core:
        expected = core.embed_query(QUERY)
        assert ours.embed_query(QUERY) == expected.tolist()
        bare = core.embed_documents([QUERY])[0]
    vector = stock.embed_query(QUERY)
    assert not np.allclose(vector, expected, atol=0.01)
    assert np.allclose(vector, bare, atol=1e-4), "the stock class embeds the query as a document"
    prompted = HuggingFaceEmbeddings(
        model_name=folder,
        model_kwargs={"device": "cpu"},
        query_encode_kwargs={"prompt_name": "query"},
    )
    assert np.allclose(prompted.embed_query(QUERY), expected, atol=1e-4)


def test_stock_text_is_not_verbatim(stock, ours):
    assert stock.embed_documents(["a\nb"]) == stock.embed_documents(["a b"])
    ours_by_text = ours.embed_documents(["a\nb", "a b", " a b", "A b"])
    assert len({tuple(vector) for vector in ours_by_text}) == 4


def test_documents_without_newlines_agree(stock, ours):
    texts = ["a hand mill for grain", "a compiler for C"]
    assert np.allclose(stock.embed_documents(texts), ours.embed_documents(texts), atol=1e-4)

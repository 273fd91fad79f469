"""The stock class drops the query prompt that the checkpoint stores; ours does not.

On random weights in the layout of Qwen3-Embedding-0.6B, with its tokenizer and side files.
"""

import numpy as np
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from quernstone import Embedder

QUERY = "grinding grain by hand"


def test_stock_query_is_not_the_model_s(checkpoints):
    folder = str(checkpoints("embedding-0.6b"))
    stock = HuggingFaceEmbedding(model_name=folder, device="cpu")
    ours = QuernstoneEmbedding(model_name=folder, dtype="float32")
    with Embedder(folder, dtype="float32") as core:
        expected = core.embed_query(QUERY)
        bare = core.embed_documents([QUERY])[0]
    assert ours.get_query_embedding(QUERY) == expected.tolist()
    vector = stock.get_query_embedding(QUERY)
    assert not np.allclose(vector, expected, atol=0.01)
    assert np.allclose(vector, bare, atol=1e-4), "the stock class embeds the query as a text"
    texts = ["a\nb", "a b", " a b", "a hand mill for grain"]
    vectors = [ours.get_text_embedding(text) for text in texts]
    assert len({tuple(vector) for vector in vectors}) == 4
    assert np.allclose(stock.get_text_embedding_batch(texts), vectors, atol=1e-4)

"""The adapters in forked children of a process that used them."""

import os

import pytest
from tests.support.forks import run_program


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_pool_of_forked_processes():
    run_program("""
import multiprocessing

import numpy as np
from langchain_core.documents import Document

from langchain_quernstone import QuernstoneEmbeddings, QuernstoneReranker

embeddings = QuernstoneEmbeddings(model="tiny", dtype="float32")
reranker = QuernstoneReranker(model="tiny", dtype="float32")
queries = ["grain", "rain"]
expected = [embeddings.embed_query(query) for query in queries]


def rerank(query):
    documents = [Document("it rains"), Document("a mill")]
    return [document.metadata["relevance_score"] for document in
            reranker.compress_documents(documents, query)]


scores = [rerank(query) for query in queries]
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(embeddings.embed_query, queries).get(15)  # pickles the adapter
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found = pool.map_async(rerank, queries).get(15)  # the children inherit the adapter
    np.testing.assert_allclose(found, scores, atol=1e-6)
""")

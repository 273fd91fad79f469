"""Embedders and rerankers that are pickled and copied."""

import copy
import os
import pickle

import numpy as np
import pytest
from tests.support.embedding_server import MODEL, StubServer
from tests.support.forks import run_program

from quernstone import Embedder, RemoteOptions, Reranker
from quernstone.model import session_of

DOCUMENTS = ["it rains", "a mill grinds grain"]
COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


class Subclass(Embedder):
    """Has arguments of its own."""

    def __init__(self, size, /, **settings):
        super().__init__("tiny", dimensions=size, **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Embedder("tiny", dtype="float32", dimensions=64, instruction="Find a mill"),
        lambda: Subclass(64, dtype="float32"),
    ],
)
def test_a_copy_of_an_embedder_has_its_settings_and_shares_its_model(make, copied):
    with make() as embedder, copied(embedder) as twin:
        assert type(twin) is type(embedder)
        assert twin.fingerprint == embedder.fingerprint
        assert session_of(twin).backend is session_of(embedder).backend
        assert session_of(twin) is not session_of(embedder)
        embedder.close()
        assert twin.embed_query("grain").shape == (64,)


def test_a_copy_of_a_reranker_has_its_settings_and_shares_its_model(copied):
    with Reranker("tiny", dtype="float32", template="eval", prefix_sharing=False) as reranker:
        expected = reranker.rerank("grain", DOCUMENTS)
        with copied(reranker) as twin:
            assert (twin.fingerprint, twin.template) == (reranker.fingerprint, "eval")
            assert session_of(twin).backend is session_of(reranker).backend
            assert twin.rerank("grain", DOCUMENTS) == expected


@pytest.mark.parametrize("wrap", [RemoteOptions.of, dict])
def test_a_copy_of_a_remote_model_keeps_its_key(wrap, copied):
    with StubServer(key="sk-1") as server:
        options = wrap({"endpoint": server.url, "dialect": "openai", "api_key": "sk-1"})
        with Embedder(MODEL, engine="remote", engine_options=options) as embedder:
            expected = embedder.embed_documents(DOCUMENTS)
            with copied(embedder) as twin:
                np.testing.assert_array_equal(twin.embed_documents(DOCUMENTS), expected)


def test_a_pickle_holds_settings_and_no_weights():
    with Embedder("tiny") as embedder, Reranker("tiny") as reranker:
        embedder.embed_query("grain")
        assert len(pickle.dumps((embedder, reranker))) < 300


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_process_pools(method, tmp_path):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this platform cannot fork")
    program = """
import multiprocessing
import sys

import numpy as np

from quernstone import Embedder, Reranker

if __name__ == "__main__":
    embedder = Embedder("tiny", dtype="float32")
    reranker = Reranker("tiny", dtype="float32")
    queries = ["grain", "rain", "a mill"]
    expected = embedder.embed_queries(queries)
    pairs = [[("grain", "a mill grinds")], [("rain", "it rains")]]
    scores = [reranker.score(each) for each in pairs]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        found = pool.map_async(embedder.embed_query, queries).get(60)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        found = pool.map_async(reranker.score, pairs).get(60)
        np.testing.assert_allclose(found, scores, atol=1e-6)
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    run_program(path, method)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_datasets_map():
    run_program("""
import datasets
import numpy as np

from quernstone import Embedder

embedder = Embedder("tiny", dtype="float32")
texts = [f"mill {number}" for number in range(20)]
expected = embedder.embed_documents(texts)
rows = datasets.Dataset.from_dict({"text": texts}).map(
    lambda batch: {"vector": embedder.embed_documents(batch["text"]).tolist()},
    batched=True,
    batch_size=5,
    num_proc=2,
)
np.testing.assert_allclose(rows["vector"][:], expected, atol=1e-6)
""")

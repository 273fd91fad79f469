"""The contract suites over HTTP: a `quern serve` process does everything that an engine does."""

import pytest
from tests.support.serving import serving_tiny

from quernstone import Embedder, Reranker
from quernstone.testing import EmbedderContract, RerankerContract


@pytest.fixture(scope="module")
def process():
    with serving_tiny() as url:
        yield url


class TestServedEmbedding(EmbedderContract):
    @pytest.fixture
    def settings(self, process):
        return {"model": process}

    @pytest.fixture
    def reference(self):
        with Embedder("tiny", dtype="float32", engine="torch") as embedder:
            yield embedder


class TestServedReranking(RerankerContract):
    @pytest.fixture
    def settings(self, process):
        return {"model": process}

    @pytest.fixture
    def reference(self):
        with Reranker("tiny", dtype="float32", engine="torch") as reranker:
            yield reranker

"""Our contract suites, for every engine that runs offline, and for a `quern serve` process."""

import pytest
from tests.support.serving import serving_tiny

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.embeddings.quernstone.testing import EmbeddingTests
from llama_index.postprocessor.quernstone import QuernstoneRerank
from llama_index.postprocessor.quernstone.testing import RerankTests


class TestTorchEmbedding(EmbeddingTests):
    @property
    def embedding_class(self):
        return QuernstoneEmbedding

    @property
    def embedding_params(self):
        return {"model_name": "tiny", "engine": "torch", "dtype": "float32"}

    @property
    def tolerance(self):
        return 1e-4

    @property
    def reads_whitespace(self):
        return False  # `test_stock.py` shows it with the official tokenizer

    @property
    def other_params(self):
        return {
            "model_name": "other",
            "revision": "v2",
            "dimensions": 32,
            "dtype": "float16",
            "max_length": 100,
            "truncate": False,
        }

    @property
    def neutral_params(self):
        return {
            "engine": "auto",
            "engine_options": {},
            "device": "cpu",
            "max_batch_tokens": 100,
            "embed_batch_size": 3,
            "num_workers": 2,
        }


class TestTransformersEmbedding(TestTorchEmbedding):
    @property
    def embedding_params(self):
        return {"model_name": "tiny", "engine": "transformers", "dtype": "float32"}


class TestSentenceTransformersEmbedding(TestTorchEmbedding):
    @property
    def embedding_params(self):
        return {"model_name": "tiny", "engine": "sentence-transformers", "dtype": "float32"}


class TestTorchRerank(RerankTests):
    @property
    def rerank_class(self):
        return QuernstoneRerank

    @property
    def rerank_params(self):
        return {"model": "tiny", "engine": "torch", "dtype": "float32"}

    @property
    def tolerance(self):
        return 1e-4

    @property
    def scores_empty_nodes(self):
        return False

    @property
    def relevance_example(self):
        return (
            "grinding grain by hand",
            "a hand mill for grinding grain into flour",
            "a compiler for the C language",
        )


class TestTransformersRerank(TestTorchRerank):
    @property
    def rerank_params(self):
        return {"model": "tiny", "engine": "transformers", "dtype": "float32"}


class TestSentenceTransformersRerank(TestTorchRerank):
    @property
    def rerank_params(self):
        return {"model": "tiny", "engine": "sentence-transformers", "dtype": "float32"}


@pytest.fixture(scope="module")
def served():
    with serving_tiny() as url:
        yield url


@pytest.fixture
def at_the_server(request, served):
    request.instance.url = served


@pytest.mark.usefixtures("at_the_server")
class TestServedEmbedding(TestTorchEmbedding):
    @property
    def embedding_params(self):
        return {"model_name": self.url}


@pytest.mark.usefixtures("at_the_server")
class TestServedRerank(TestTorchRerank):
    @property
    def rerank_params(self):
        return {"model": self.url}

"""The standard suites of langchain-tests, unchanged, and our own, for every offline engine.

The last suites run against a `quern serve` process.
"""

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from tests.support.serving import serving_tiny

from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
)
from langchain_quernstone.testing import CrossEncoderTests, DocumentCompressorTests

RELEVANCE = (
    "grinding grain by hand",
    "a hand mill for grinding grain into flour",
    "a compiler for the C language",
)


class TorchEmbeddings:
    @property
    def embeddings_class(self):
        return QuernstoneEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "tiny", "engine": "torch"}


class TransformersEmbeddings(TorchEmbeddings):
    @property
    def embedding_model_params(self):
        return {"model": "tiny", "engine": "transformers"}


class SentenceTransformersEmbeddings(TorchEmbeddings):
    @property
    def embedding_model_params(self):
        return {"model": "tiny", "engine": "sentence-transformers"}


class TestTorchEmbeddingsUnit(TorchEmbeddings, EmbeddingsUnitTests):
    pass


class TestTorchEmbeddingsIntegration(TorchEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestTransformersEmbeddingsUnit(TransformersEmbeddings, EmbeddingsUnitTests):
    pass


class TestTransformersEmbeddingsIntegration(TransformersEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestSentenceTransformersEmbeddingsUnit(SentenceTransformersEmbeddings, EmbeddingsUnitTests):
    pass


class TestSentenceTransformersEmbeddingsIntegration(
    SentenceTransformersEmbeddings, EmbeddingsIntegrationTests
):
    pass


class TestTorchReranker(DocumentCompressorTests):
    @property
    def compressor_class(self):
        return QuernstoneReranker

    @property
    def compressor_params(self):
        return {"model": "tiny", "engine": "torch", "dtype": "float32"}

    @property
    def tolerance(self):
        return 1e-4

    @property
    def relevance_example(self):
        return RELEVANCE


class TestTransformersReranker(TestTorchReranker):
    @property
    def compressor_params(self):
        return {"model": "tiny", "engine": "transformers", "dtype": "float32"}


class TestSentenceTransformersReranker(TestTorchReranker):
    @property
    def compressor_params(self):
        return {"model": "tiny", "engine": "sentence-transformers", "dtype": "float32"}


class TestTorchCrossEncoder(CrossEncoderTests):
    @property
    def cross_encoder_class(self):
        return QuernstoneCrossEncoder

    @property
    def cross_encoder_params(self):
        return {"model": "tiny", "engine": "torch", "dtype": "float32"}

    @property
    def tolerance(self):
        return 1e-4


class TestTransformersCrossEncoder(TestTorchCrossEncoder):
    @property
    def cross_encoder_params(self):
        return {"model": "tiny", "engine": "transformers", "dtype": "float32"}


class TestSentenceTransformersCrossEncoder(TestTorchCrossEncoder):
    @property
    def cross_encoder_params(self):
        return {"model": "tiny", "engine": "sentence-transformers", "dtype": "float32"}


@pytest.fixture(scope="module")
def served():
    with serving_tiny() as url:
        yield url


@pytest.fixture
def at_the_server(request, served):
    request.instance.url = served


@pytest.mark.usefixtures("at_the_server")
class TestServedEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return QuernstoneEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.url}


@pytest.mark.usefixtures("at_the_server")
class TestServedReranker(TestTorchReranker):
    @property
    def compressor_params(self):
        return {"model": self.url}


@pytest.mark.usefixtures("at_the_server")
class TestServedCrossEncoder(TestTorchCrossEncoder):
    @property
    def cross_encoder_params(self):
        return {"model": self.url}

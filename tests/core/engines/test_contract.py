"""The contract suites for the engines that run everywhere."""

from typing import ClassVar

import pytest

from quernstone import Embedder, Reranker
from quernstone.testing import EmbedderContract, RerankerContract

COUNTS_NOTHING = "the library tokenizes, and does not report the number of tokens"
OWN_TEXT = "a cross-encoder other than Qwen3 reads the query and the document alone"


class TestTorchEmbedding(EmbedderContract):
    engine = "torch"
    oracle: ClassVar = "transformers"

    @pytest.fixture
    def settings(self, checkpoints):
        folder = str(checkpoints("embedding-0.6b"))
        return {"model": folder, "engine": self.engine, "dtype": "float32"}

    @pytest.fixture
    def reference(self, settings):
        with Embedder(**{**settings, "engine": self.oracle}) as embedder:
            yield embedder


class TestTransformersEmbedding(TestTorchEmbedding):
    engine = "transformers"
    oracle: ClassVar = "torch"


class TestSentenceTransformersEmbedding(TestTransformersEmbedding):
    engine = "sentence-transformers"


class TestOtherEmbeddingModel(EmbedderContract):
    """A BERT with mean pooling: sentence-transformers alone, by texts."""

    engine = "sentence-transformers, not Qwen3"
    cannot: ClassVar = {"usage": COUNTS_NOTHING}

    @pytest.fixture
    def settings(self, minilm):
        return {"model": minilm(), "dtype": "float32"}


class TestTorchReranking(RerankerContract):
    engine = "torch"
    oracle: ClassVar = "transformers"

    @pytest.fixture
    def settings(self, checkpoints):
        folder = str(checkpoints("reranker-0.6b"))
        return {"model": folder, "engine": self.engine, "dtype": "float32"}

    @pytest.fixture
    def reference(self, settings):
        with Reranker(**{**settings, "engine": self.oracle}) as reranker:
            yield reranker


class TestTransformersReranking(TestTorchReranking):
    engine = "transformers"
    oracle: ClassVar = "torch"


class TestSentenceTransformersReranking(TestTransformersReranking):
    engine = "sentence-transformers"


class TestOtherCrossEncoder(RerankerContract):
    """A BERT with one label."""

    engine = "sentence-transformers, not Qwen3"
    max_length: ClassVar = 48
    cannot: ClassVar = {
        "usage": COUNTS_NOTHING,
        "instruction": OWN_TEXT,
        "template": OWN_TEXT,
    }

    @pytest.fixture
    def settings(self, cross_encoder):
        return {"model": cross_encoder(), "dtype": "float32"}

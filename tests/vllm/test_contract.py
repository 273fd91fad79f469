"""vLLM keeps the contracts of all engines, and computes what our own engine computes.

Both run random weights of the 0.6B layouts in float32, two layers deep.
"""

import numpy as np
import pytest

from quernstone import Embedder, Reranker
from quernstone.testing import TEXTS, EmbedderContract, RerankerContract

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs this")
pytestmark = pytest.mark.slow

# two steps of the scheduler, which takes 4,096 tokens at a time
LONG = " ".join(f"{text} {number}" for number in range(90) for text in TEXTS)


class TestEmbedder(EmbedderContract):
    engine = "vllm"

    @pytest.fixture(scope="class")
    def folder(self, checkpoints):
        return str(checkpoints("embedding-0.6b", layers=2, width=1))

    @pytest.fixture(scope="class")
    def settings(self, folder, engine_options):
        return {
            "model": folder,
            "engine": "vllm",
            "dtype": "float32",
            "engine_options": engine_options,
        }

    @pytest.fixture(scope="class")
    def reference(self, folder):
        with Embedder(folder, engine="torch", dtype="float32") as embedder:
            yield embedder

    def test_a_long_text_among_short_ones(self, subject, reference):
        texts = [*TEXTS, LONG, *TEXTS]
        found, wanted = subject.embed_documents(texts), reference.embed_documents(texts)
        assert subject.usage.truncated == 0
        assert subject.usage.tokens > 5000
        assert (found * wanted).sum(axis=1).min() >= self.agreement

    def test_vllm_does_not_normalise(self, subject):
        # so that `dimensions` is cut first and normalised last
        rows = subject._session.run_all(TEXTS, subject._session.encoder.encode_documents)
        assert np.linalg.norm(rows, axis=1).min() > 2


class TestReranker(RerankerContract):
    engine = "vllm"

    @pytest.fixture(scope="class")
    def folder(self, checkpoints):
        return str(checkpoints("reranker-0.6b", layers=2, width=1))

    @pytest.fixture(scope="class")
    def settings(self, folder, engine_options):
        return {
            "model": folder,
            "engine": "vllm",
            "dtype": "float32",
            "engine_options": engine_options,
        }

    @pytest.fixture(scope="class")
    def reference(self, folder):
        with Reranker(folder, engine="torch", dtype="float32") as reranker:
            yield reranker

    def test_documents_of_a_long_query_share_it(self, subject, reference):
        pairs = [(LONG[:3000], text) for text in TEXTS]
        wanted = reference.score(pairs)
        for _ in range(2):  # the second time from the cache
            np.testing.assert_allclose(subject.score(pairs), wanted, atol=self.agreement)

    def test_a_long_document(self, subject, reference):
        pairs = [("a mill", LONG), ("a mill", TEXTS[1])]
        scores = subject.score(pairs)
        np.testing.assert_allclose(scores, reference.score(pairs), atol=self.agreement)

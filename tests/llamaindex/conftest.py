import pytest

pytest.register_assert_rewrite(
    "llama_index.embeddings.quernstone.testing", "llama_index.postprocessor.quernstone.testing"
)


@pytest.fixture(scope="session", autouse=True)
def models():
    """Hold the models that the tests use, or each test would load and unload its own."""
    from quernstone import Embedder, Reranker

    return [
        core("tiny", engine=engine, dtype=dtype)
        for core in (Embedder, Reranker)
        for engine in ("torch", "transformers", "sentence-transformers")
        for dtype in ("auto", "float32")
    ]

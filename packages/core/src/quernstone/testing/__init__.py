"""Contract suites for engines: inherit one, say what to load, and run pytest.

    from quernstone.testing import EmbedderContract

    class TestMyEngine(EmbedderContract):
        engine = "my engine"

        @pytest.fixture
        def settings(self):
            return {"model": "my-model", "engine": "remote", "engine_options": {...}}

        @pytest.fixture
        def reference(self):  # optional
            with Embedder("same-weights", engine="torch", dtype="float32") as embedder:
                yield embedder

What an engine cannot do is said in `cannot`, with the reason, and is then a test that must fail:
a claim that is no longer true is found out.

    cannot: ClassVar = {"control_tokens": "the server parses them"}

Needs pytest and nothing else. For readable failures call
`pytest.register_assert_rewrite("quernstone.testing")` in the root `conftest.py`. With the plugin
(`-p quernstone.testing.capabilities --capabilities FOLDER`) the suites write what they found, one
JSON file per engine; see `quernstone.testing.capabilities`.
"""

from quernstone.testing.embedder import EmbedderContract
from quernstone.testing.material import (
    ODD_TEXTS,
    QUERY,
    TEXTS,
    WRONG_LISTS,
    WRONG_TEXTS,
    different_calls,
)
from quernstone.testing.reranker import RerankerContract

__all__ = [
    "ODD_TEXTS",
    "QUERY",
    "TEXTS",
    "WRONG_LISTS",
    "WRONG_TEXTS",
    "EmbedderContract",
    "RerankerContract",
    "different_calls",
]

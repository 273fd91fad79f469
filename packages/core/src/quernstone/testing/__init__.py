"""Contract suites for engines: subclass one, define what to load, and run pytest.

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

List what an engine cannot do in `cannot`, with the reason. These tests must then fail, so an entry
that is no longer true is detected.

    cannot: ClassVar = {"control_tokens": "the server parses them"}

Only pytest is required. For readable failures call
`pytest.register_assert_rewrite("quernstone.testing")` in the root `conftest.py`. With the plugin
(`-p quernstone.testing.capabilities --capabilities FOLDER`) the suites write their results, one
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

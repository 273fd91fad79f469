"""Contract tests that any LlamaIndex embedding model can inherit.

Install them with `pip install "llama-index-quernstone[testing]"`:

    from llama_index.embeddings.quernstone.testing import EmbeddingTests

    class TestMyEmbedding(EmbeddingTests):
        @property
        def embedding_class(self): return MyEmbedding

        @property
        def embedding_params(self): return {"model_name": "my-model"}

If a model lacks a capability, override the property that describes it, never the test.
Set pytest's `asyncio_mode = "auto"`, and for readable failures call
`pytest.register_assert_rewrite("llama_index.embeddings.quernstone.testing")` in `conftest.py`.
"""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler

from quernstone import testing
from quernstone.testing import WRONG_TEXTS

TEXTS = [*testing.TEXTS, "a long text " * 60]


class EmbeddingTests:
    """Tests of a `BaseEmbedding`."""

    @property
    @abstractmethod
    def embedding_class(self) -> type[BaseEmbedding]:
        """Class under test."""

    @property
    def embedding_params(self) -> dict[str, Any]:
        """Arguments of its constructor."""
        return {}

    @property
    def other_params(self) -> dict[str, Any] | None:
        """Arguments that each change the vectors of texts; None if there are none."""
        return None

    @property
    def neutral_params(self) -> dict[str, Any]:
        """Arguments that change neither the vectors nor the cache key of a pipeline."""
        return {}

    @property
    def tells_queries_from_texts(self) -> bool:
        """True if a query and an equal text have different vectors."""
        return True

    @property
    def reads_whitespace(self) -> bool:
        """True if the model's tokenizer distinguishes a newline from a space."""
        return True

    @property
    def takes_iterables(self) -> bool:
        """True if generators of texts and nodes are embedded like lists."""
        return True

    @property
    def takes_empty_text(self) -> bool:
        """True if an empty string has a vector; False if it raises ValueError."""
        return True

    @property
    def tolerance(self) -> float:
        """Maximum change of a number by other inputs in the same batch."""
        return 0.01

    def make(self, **params: Any) -> BaseEmbedding:
        """Construct the model."""
        return self.embedding_class(**{**self.embedding_params, **params})

    @pytest.fixture
    def model(self) -> BaseEmbedding:
        """Create the object to test."""
        return self.make()

    @pytest.fixture
    def events(self) -> Iterator[list[BaseEvent]]:
        """Collect the instrumentation events of the test in order."""
        seen: list[BaseEvent] = []

        class Recorder(BaseEventHandler):
            def handle(self, event: BaseEvent, **_: Any) -> None:
                seen.append(event)

        root, recorder = get_dispatcher(), Recorder()
        root.add_event_handler(recorder)
        yield seen
        root.event_handlers.remove(recorder)

    def test_vectors_are_lists_of_python_floats(self, model: BaseEmbedding) -> None:
        vectors = [model.get_query_embedding("q"), model.get_text_embedding("t")]
        vectors += model.get_text_embedding_batch(TEXTS)
        assert len({len(vector) for vector in vectors}) == 1
        for vector in vectors:
            assert type(vector) is list
            assert all(type(number) is float and math.isfinite(number) for number in vector)

    def test_batch_is_the_texts_in_order(self, model: BaseEmbedding) -> None:
        batch = model.get_text_embedding_batch(TEXTS)
        for text, vector in zip(TEXTS, batch, strict=True):
            self.assert_close(model.get_text_embedding(text), vector)

    @pytest.mark.parametrize("embed_batch_size", [1, 2, 2048])
    def test_batch_size_does_not_matter(self, model: BaseEmbedding, embed_batch_size: int) -> None:
        sized = self.make(embed_batch_size=embed_batch_size)
        for vector, expected in zip(
            sized.get_text_embedding_batch(TEXTS),
            model.get_text_embedding_batch(TEXTS),
            strict=True,
        ):
            self.assert_close(vector, expected)

    def test_empty_batch(self, model: BaseEmbedding) -> None:
        assert model.get_text_embedding_batch([]) == []

    async def test_any_iterable_is_a_list(self, model: BaseEmbedding) -> None:
        if not self.takes_iterables:
            pytest.skip("`takes_iterables` is False")
        expected = model.get_text_embedding_batch(TEXTS)
        given: Any = iter(TEXTS)
        for vectors in (
            model.get_text_embedding_batch(given),
            await model.aget_text_embedding_batch(filter(None, TEXTS)),
        ):
            assert len(vectors) == len(TEXTS)
            for vector, wanted in zip(vectors, expected, strict=True):
                self.assert_close(vector, wanted)
        nodes: Any = (TextNode(text=text) for text in TEXTS)
        for node, wanted in zip(model(nodes), expected, strict=True):
            self.assert_close(node.embedding or [], wanted)
        nodes = (TextNode(text=text) for text in TEXTS)
        for node, wanted in zip(await model.acall(nodes), expected, strict=True):
            self.assert_close(node.embedding or [], wanted)

    async def test_async_is_sync(self, model: BaseEmbedding) -> None:
        self.assert_close(await model.aget_query_embedding("q"), model.get_query_embedding("q"))
        self.assert_close(await model.aget_text_embedding("t"), model.get_text_embedding("t"))
        assert await model.aget_text_embedding_batch([]) == []
        for vector, expected in zip(
            await model.aget_text_embedding_batch(TEXTS),
            model.get_text_embedding_batch(TEXTS),
            strict=True,
        ):
            self.assert_close(vector, expected)

    async def test_async_does_not_block_the_loop(self, model: BaseEmbedding) -> None:
        texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
        task = asyncio.create_task(model.aget_text_embedding_batch(texts))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(await task) == len(texts)
        assert turns > 20, f"the event loop got {turns} turns during {len(texts)} texts"

    async def test_concurrent_calls_do_not_mix(self, model: BaseEmbedding) -> None:
        texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
        vectors = await asyncio.gather(*map(model.aget_text_embedding, texts))
        for text, vector in zip(texts, vectors, strict=True):
            self.assert_close(vector, model.get_text_embedding(text))

    def test_threads_do_not_mix(self, model: BaseEmbedding) -> None:
        texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
        with ThreadPoolExecutor(8) as pool:
            vectors = list(pool.map(model.get_text_embedding, texts))
        for text, vector in zip(texts, vectors, strict=True):
            self.assert_close(vector, model.get_text_embedding(text))

    def test_query_is_not_a_text(self, model: BaseEmbedding) -> None:
        if not self.tells_queries_from_texts:
            pytest.skip("`tells_queries_from_texts` is False")
        assert model.get_query_embedding(TEXTS[0]) != model.get_text_embedding(TEXTS[0])

    def test_text_is_verbatim(self, model: BaseEmbedding) -> None:
        if not self.reads_whitespace:
            pytest.skip("`reads_whitespace` is False")
        one, other = model.get_text_embedding_batch(["a\nb", "a b"])
        assert one != other

    def test_empty_text(self, model: BaseEmbedding) -> None:
        for embed in (model.get_text_embedding, model.get_query_embedding):
            if self.takes_empty_text:
                assert all(math.isfinite(number) for number in embed(""))
            else:
                with pytest.raises(ValueError, match=r"."):
                    embed("")

    @pytest.mark.parametrize("wrong", WRONG_TEXTS, ids=ascii)
    def test_wrong_types_are_rejected(self, model: BaseEmbedding, wrong: Any) -> None:
        for embed in (model.get_text_embedding, model.get_query_embedding):
            with pytest.raises((TypeError, ValueError)):
                embed(wrong)

    def test_unknown_setting_is_rejected(self) -> None:
        with pytest.raises((TypeError, ValueError), match="no_such_setting"):
            self.make(no_such_setting=1)

    def test_embeddings_cache_never_mixes_queries_and_texts(self) -> None:
        try:
            cached = self.make(embeddings_cache=SimpleKVStore())
        except ValueError as error:
            assert "embeddings_cache" in str(error)  # noqa: PT017 - refusing is one way to pass
            return
        for text in ("text first", "query first"):
            if text == "text first":
                cached.get_text_embedding(text)
            query = cached.get_query_embedding(text)
            self.assert_close(query, self.make().get_query_embedding(text))
            self.assert_close(cached.get_text_embedding(text), self.make().get_text_embedding(text))

    def test_dictionary_round_trip(self, model: BaseEmbedding) -> None:
        stored = model.to_dict()
        assert stored["class_name"] == self.embedding_class.class_name() != "base_component"
        loaded = self.embedding_class.from_dict(stored)
        assert loaded.to_dict() == stored
        self.assert_close(loaded.get_query_embedding("q"), model.get_query_embedding("q"))
        json_loaded = self.embedding_class.from_json(model.to_json())
        assert json_loaded.to_dict() == stored

    def test_pickle_and_copy(self, model: BaseEmbedding) -> None:
        expected = model.get_query_embedding("q")
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert twin.to_dict() == model.to_dict()
            self.assert_close(twin.get_query_embedding("q"), expected)

    def test_cache_key_changes_with_the_vectors(self, model: BaseEmbedding) -> None:
        nodes = [TextNode(text="t", id_="1")]
        key = get_transformation_hash(nodes, model)
        model.get_text_embedding("use it")
        assert get_transformation_hash(nodes, model) == key
        assert get_transformation_hash(nodes, self.make()) == key
        for name, value in self.neutral_params.items():
            assert get_transformation_hash(nodes, self.make(**{name: value})) == key, name
        for name, value in (self.other_params or {}).items():
            assert get_transformation_hash(nodes, self.make(**{name: value})) != key, name

    def test_nodes_get_their_vectors(self, model: BaseEmbedding) -> None:
        nodes = [TextNode(text=text, metadata={"title": "T"}) for text in TEXTS]
        assert model(nodes) == nodes
        for node, text in zip(nodes, TEXTS, strict=True):
            assert node.text == text
            assert node.embedding is not None
            self.assert_close(node.embedding, model.get_text_embedding(f"title: T\n\n{text}"))

    async def test_events_and_callbacks(self, events: list[BaseEvent]) -> None:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        model = self.make(callback_manager=CallbackManager([debug]), embed_batch_size=2)
        model.get_query_embedding("q")
        model.get_text_embedding_batch(TEXTS)
        await model.aget_text_embedding_batch(TEXTS)
        names = [event.class_name() for event in events]
        calls = 1 + 2 * math.ceil(len(TEXTS) / 2)
        assert names.count("EmbeddingStartEvent") == names.count("EmbeddingEndEvent") == calls
        assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == calls
        assert "key" not in " ".join(model.to_payload())

    def assert_close(self, vector: list[float], expected: list[float]) -> None:
        """Assert that two vectors are equal within `tolerance`."""
        assert vector == pytest.approx(expected, abs=self.tolerance)

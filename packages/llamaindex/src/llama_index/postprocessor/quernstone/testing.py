"""Contract tests that any LlamaIndex reranker can inherit.

Install them with `pip install "llama-index-quernstone[testing]"`:

    from llama_index.postprocessor.quernstone.testing import RerankTests

    class TestMyRerank(RerankTests):
        @property
        def rerank_class(self): return MyRerank

        @property
        def rerank_params(self): return {"model": "my-model"}

If a reranker lacks a capability, override the property that describes it, never the test.
Set pytest's `asyncio_mode = "auto"`, and for readable failures call
`pytest.register_assert_rewrite("llama_index.postprocessor.quernstone.testing")` in `conftest.py`.
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
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler

from quernstone.testing import QUERY, TEXTS, different_calls


class RerankTests:
    """Tests of a `BaseNodePostprocessor` that reranks."""

    @property
    @abstractmethod
    def rerank_class(self) -> type[BaseNodePostprocessor]:
        """Class under test."""

    @property
    def rerank_params(self) -> dict[str, Any]:
        """Arguments of its constructor except `top_n`."""
        return {}

    @property
    def takes_empty_text(self) -> bool:
        """True if empty queries and nodes are scored; False if they raise ValueError."""
        return True

    @property
    def keeps_retrieval_score(self) -> bool:
        """True if the class has the setting `keep_retrieval_score`."""
        return True

    @property
    def scores_empty_nodes(self) -> bool:
        """True if nodes without text are scored; False if they are named in a warning."""
        return True

    @property
    def takes_iterables(self) -> bool:
        """True if generators of nodes are reranked like lists."""
        return True

    @property
    def tolerance(self) -> float:
        """Maximum change of a score by other inputs in the same batch."""
        return 0.02

    @property
    def relevance_example(self) -> tuple[str, str, str] | None:
        """A query, a relevant and an irrelevant text; None if the model is untrained."""
        return None

    def make(self, **params: Any) -> BaseNodePostprocessor:
        """Construct the reranker; it keeps every result unless `top_n` is passed."""
        return self.rerank_class(**{**self.rerank_params, "top_n": 1000, **params})

    @pytest.fixture
    def nodes(self) -> list[NodeWithScore]:
        """Create retrieved nodes."""
        return [
            NodeWithScore(
                node=TextNode(id_=f"id-{number}", text=text, metadata={"number": number}),
                score=0.5 + number / 100,
            )
            for number, text in enumerate(TEXTS)
        ]

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

    def test_scores_are_python_floats_in_order(self, nodes: list[NodeWithScore]) -> None:
        results = self.make().postprocess_nodes(nodes, query_str=QUERY)
        scores = [result.get_score(raise_error=True) for result in results]
        assert sorted(result.node_id for result in results) == [n.node_id for n in nodes]
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert scores == sorted(scores, reverse=True)

    def test_input_is_not_changed(self, nodes: list[NodeWithScore]) -> None:
        before = copy.deepcopy(nodes)
        settings = [{"keep_retrieval_score": True}] if self.keeps_retrieval_score else []
        for params in [{}, *settings]:
            results = self.make(**params).postprocess_nodes(nodes, query_str=QUERY)
            assert nodes == before
            for result in results:
                result.score = -1.0
            assert nodes == before

    async def test_any_iterable_is_a_list(self, nodes: list[NodeWithScore]) -> None:
        if not self.takes_iterables:
            pytest.skip("`takes_iterables` is False")
        rerank = self.make()
        expected = {node.node_id for node in rerank.postprocess_nodes(nodes, query_str=QUERY)}
        assert expected == {node.node_id for node in nodes}
        generator: Any = (node for node in nodes)
        kept: Any = filter(None, nodes)
        for results in (
            rerank.postprocess_nodes(generator, query_str=QUERY),
            await rerank.apostprocess_nodes(kept, query_str=QUERY),
        ):
            assert {node.node_id for node in results} == expected

    def test_retrieval_score_can_be_kept(self, nodes: list[NodeWithScore]) -> None:
        if not self.keeps_retrieval_score:
            pytest.skip("`keeps_retrieval_score` is False")
        rerank = self.make(keep_retrieval_score=True)
        for result in rerank.postprocess_nodes(nodes, query_str=QUERY):
            original = nodes[result.node.metadata["number"]]
            assert result.node.metadata["retrieval_score"] == original.score
            assert result.node_id == original.node_id

    def test_relevant_node_comes_first(self) -> None:
        if self.relevance_example is None:
            pytest.skip("`relevance_example` is None: the model is not trained")
        query, relevant, irrelevant = self.relevance_example
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in (irrelevant, relevant)]
        results = self.make().postprocess_nodes(nodes, query_str=query)
        assert [result.text for result in results] == [relevant, irrelevant]

    @pytest.mark.parametrize("top_n", [1, 2, len(TEXTS), len(TEXTS) + 1, 10_000])
    def test_top_n(self, nodes: list[NodeWithScore], top_n: int) -> None:
        every = self.make().postprocess_nodes(nodes, query_str=QUERY)
        best = self.make(top_n=top_n).postprocess_nodes(nodes, query_str=QUERY)
        assert [n.node_id for n in best] == [n.node_id for n in every][:top_n]

    @pytest.mark.parametrize("top_n", [-1, "many", 1.5])
    def test_invalid_top_n_is_rejected(self, top_n: Any) -> None:
        with pytest.raises(ValueError, match="top_n"):
            self.make(top_n=top_n)

    async def test_no_nodes(self) -> None:
        assert self.make().postprocess_nodes([], query_str=QUERY) == []
        assert await self.make().apostprocess_nodes([], query_str=QUERY) == []

    async def test_no_query(self, nodes: list[NodeWithScore]) -> None:
        with pytest.raises(ValueError, match="query"):
            self.make().postprocess_nodes(nodes)
        with pytest.raises(ValueError, match="query"):
            await self.make().apostprocess_nodes(nodes)

    def test_query_bundle_is_query_str(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make()
        bundle = rerank.postprocess_nodes(nodes, query_bundle=QueryBundle(QUERY))
        self.assert_same(bundle, rerank.postprocess_nodes(nodes, query_str=QUERY))

    def test_empty_texts(self, nodes: list[NodeWithScore]) -> None:
        rerank, with_empty = self.make(), [*nodes, NodeWithScore(node=TextNode(text=""))]
        for given, query in ((with_empty, QUERY), (nodes, "")):
            if given is with_empty and not self.scores_empty_nodes:
                with pytest.warns(UserWarning, match="no text"):
                    results = rerank.postprocess_nodes(given, query_str=query)
                assert {n.node_id for n in results} == {n.node_id for n in nodes}
            elif self.takes_empty_text:
                results = rerank.postprocess_nodes(given, query_str=query)
                assert all(math.isfinite(result.get_score()) for result in results)
                assert len(results) == len(given)
            else:
                with pytest.raises(ValueError, match=r"."):
                    rerank.postprocess_nodes(given, query_str=query)

    def test_equal_scores_keep_their_order(self, nodes: list[NodeWithScore]) -> None:
        twins = [
            NodeWithScore(node=TextNode(id_=f"twin-{number:02}", text=TEXTS[1]))
            for number in range(40)
        ]
        given = [*twins[:20], *nodes, *twins[20:]]
        results = self.make().postprocess_nodes(given, query_str=QUERY)
        kept = [result for result in results if result.node_id.startswith("twin")]
        keys = [(-result.get_score(), result.node_id) for result in kept]
        assert len(kept) == len(twins)
        assert keys == sorted(keys)
        assert keys[-1][0] - keys[0][0] <= self.tolerance

    def test_score_does_not_depend_on_other_inputs(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make()
        for result in rerank.postprocess_nodes(nodes, query_str=QUERY):
            original = nodes[result.node.metadata["number"]]
            [alone] = rerank.postprocess_nodes([original], query_str=QUERY)
            assert alone.score == pytest.approx(result.score, abs=self.tolerance)

    def test_wrong_types_are_rejected(self, nodes: list[NodeWithScore]) -> None:
        wrong: Any = TEXTS[0]
        not_retrieved: Any = nodes[0].node
        for given in ([wrong], [not_retrieved]):
            with pytest.raises((TypeError, ValueError, AttributeError)):
                self.make().postprocess_nodes(given, query_str=QUERY)
        with pytest.raises((TypeError, ValueError, AttributeError)):
            self.make().postprocess_nodes(nodes, wrong)

    def test_unknown_setting_is_rejected(self) -> None:
        with pytest.raises((TypeError, ValueError), match="no_such_setting"):
            self.make(no_such_setting=1)

    async def test_async_is_sync(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make()
        results = await rerank.apostprocess_nodes(nodes, query_str=QUERY)
        self.assert_same(results, rerank.postprocess_nodes(nodes, query_str=QUERY))

    async def test_async_does_not_block_the_loop(self, nodes: list[NodeWithScore]) -> None:
        task = asyncio.create_task(self.make().apostprocess_nodes(nodes * 10, query_str=QUERY))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(await task) == 10 * len(nodes)
        assert turns > 20, f"the event loop got {turns} turns during {10 * len(nodes)} nodes"

    async def test_concurrent_calls_do_not_mix(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make()
        calls = different_calls(nodes, 30)
        concurrent = await asyncio.gather(
            *(rerank.apostprocess_nodes(given, query_str=query) for query, given in calls)
        )
        for (query, given), results in zip(calls, concurrent, strict=True):
            self.assert_same(results, rerank.postprocess_nodes(given, query_str=query))

    def test_threads_do_not_mix(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make()
        calls = different_calls(nodes, 30)
        with ThreadPoolExecutor(8) as pool:
            parallel = list(
                pool.map(lambda call: rerank.postprocess_nodes(call[1], query_str=call[0]), calls)
            )
        for (query, given), results in zip(calls, parallel, strict=True):
            self.assert_same(results, rerank.postprocess_nodes(given, query_str=query))

    def test_round_trips(self, nodes: list[NodeWithScore]) -> None:
        rerank = self.make(top_n=2)
        expected = rerank.postprocess_nodes(nodes, query_str=QUERY)
        assert self.rerank_class.class_name() != "BaseNodePostprocessor"
        for twin in (
            self.rerank_class.from_dict(rerank.to_dict()),
            self.rerank_class.from_json(rerank.to_json()),
            pickle.loads(pickle.dumps(rerank)),
            copy.deepcopy(rerank),
        ):
            assert twin.to_dict() == rerank.to_dict()
            self.assert_same(twin.postprocess_nodes(nodes, query_str=QUERY), expected)

    async def test_events_and_callbacks(
        self, nodes: list[NodeWithScore], events: list[BaseEvent]
    ) -> None:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        rerank = self.make(callback_manager=CallbackManager([debug]))
        rerank.postprocess_nodes(nodes, query_str=QUERY)
        await rerank.apostprocess_nodes(nodes, query_str=QUERY)
        names = [event.class_name() for event in events]
        assert [name for name in names if name.startswith("ReRank")] == [
            "ReRankStartEvent",
            "ReRankEndEvent",
        ] * 2
        assert all(event.span_id for event in events)
        pairs = debug.get_event_pairs(CBEventType.RERANKING)
        assert len(pairs) == 2
        for start, end in pairs:
            assert start.payload is not None
            assert end.payload is not None
            assert start.payload["query_str"] == QUERY
            assert len(end.payload["nodes"]) == len(nodes)

    def assert_same(self, results: list[NodeWithScore], expected: list[NodeWithScore]) -> None:
        """Assert equal nodes with nearly equal scores; near ties may swap."""
        found = {result.node_id: result.get_score() for result in results}
        wanted = {result.node_id: result.get_score() for result in expected}
        assert found == pytest.approx(wanted, abs=self.tolerance)

"""Contract tests that any LangChain reranker can inherit.

langchain-tests has no suites for document compressors and cross-encoders. These follow its
conventions. Install them with `pip install "langchain-quernstone[testing]"`:

    from langchain_quernstone.testing import DocumentCompressorTests

    class TestMyReranker(DocumentCompressorTests):
        @property
        def compressor_class(self): return MyReranker

        @property
        def compressor_params(self): return {"model": "my-model"}

If a reranker lacks a capability, override the property that describes it instead of the test.
Set pytest's `asyncio_mode = "auto"`, and for readable failures call
`pytest.register_assert_rewrite("langchain_quernstone.testing")` in the root `conftest.py`.
"""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document

from quernstone.testing import QUERY, TEXTS, WRONG_TEXTS, different_calls


class DocumentCompressorTests:
    """Tests of a `BaseDocumentCompressor` that reranks."""

    @property
    @abstractmethod
    def compressor_class(self) -> type[BaseDocumentCompressor]:
        """Class under test."""

    @property
    def compressor_params(self) -> dict[str, Any]:
        """Arguments of its constructor except `top_n`."""
        return {}

    @property
    def top_n_name(self) -> str:
        """Name of the argument that limits the number of results."""
        return "top_n"

    @property
    def score_key(self) -> str:
        """Metadata key of the score."""
        return "relevance_score"

    @property
    def takes_empty_text(self) -> bool:
        """True if empty queries and documents are scored; False if they raise ValueError."""
        return True

    @property
    def takes_iterables(self) -> bool:
        """True if generators of documents are reranked like lists."""
        return True

    @property
    def is_picklable(self) -> bool:
        """True if the object can be pickled."""
        return True

    @property
    def tolerance(self) -> float:
        """Maximum difference that other inputs in the same batch make to a score."""
        return 0.02

    @property
    def relevance_example(self) -> tuple[str, str, str] | None:
        """A query, a relevant and an irrelevant text; None if the model is untrained."""
        return None

    def make(self, top_n: int | None = None, **params: Any) -> BaseDocumentCompressor:
        """Construct the compressor; it keeps every result unless `top_n` is passed."""
        return self.compressor_class(
            **{**self.compressor_params, self.top_n_name: top_n or len(TEXTS) * 100, **params}
        )

    def scores(self, documents: Any) -> list[float]:
        """Return the scores of the results."""
        return [document.metadata[self.score_key] for document in documents]

    @pytest.fixture
    def documents(self) -> list[Document]:
        """Create documents with ids and metadata."""
        return [
            Document(id=f"id-{number}", page_content=text, metadata={"number": number})
            for number, text in enumerate(TEXTS)
        ]

    def test_scores_are_python_floats_in_order(self, documents: list[Document]) -> None:
        scores = self.scores(self.make().compress_documents(documents, QUERY))
        assert len(scores) == len(TEXTS)
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert scores == sorted(scores, reverse=True)

    def test_every_document_comes_back_whole(self, documents: list[Document]) -> None:
        results = self.make().compress_documents(documents, QUERY)
        assert sorted(document.id or "" for document in results) == [d.id for d in documents]
        for result in results:
            original = documents[result.metadata["number"]]
            assert result.id == original.id
            assert result.page_content == original.page_content
            assert {**result.metadata, **original.metadata} == result.metadata

    async def test_any_iterable_is_a_list(self, documents: list[Document]) -> None:
        if not self.takes_iterables:
            pytest.skip("`takes_iterables` is False")
        compressor = self.make()
        expected = {document.id for document in documents}
        generator: Any = (document for document in documents)
        kept: Any = filter(None, documents)
        for results in (
            compressor.compress_documents(generator, QUERY),
            await compressor.acompress_documents(kept, QUERY),
        ):
            assert {document.id for document in results} == expected

    def test_input_is_not_changed(self, documents: list[Document]) -> None:
        before = copy.deepcopy(documents)
        results = self.make().compress_documents(documents, QUERY)
        assert documents == before
        for result in results:
            result.metadata["changed later"] = True
        assert documents == before

    def test_new_score_replaces_an_old_one(self) -> None:
        old = Document(TEXTS[1], metadata={self.score_key: 123.0})
        [again] = self.make().compress_documents([old], QUERY)
        assert self.scores([again]) != [123.0]
        assert old.metadata == {self.score_key: 123.0}

    def test_metadata_may_hold_anything(self) -> None:
        odd = {"none": None, "nan": math.nan, "bytes": b"\x00", "object": object(), "": {"a": [1]}}
        [result] = self.make().compress_documents([Document(TEXTS[1], metadata=odd)], QUERY)
        kept = {key: value for key, value in result.metadata.items() if key != self.score_key}
        assert kept.keys() == odd.keys()
        assert kept["object"] is odd["object"]
        assert kept[""] == {"a": [1]}

    def test_relevant_document_comes_first(self) -> None:
        if self.relevance_example is None:
            pytest.skip("`relevance_example` is None: the model is not trained")
        query, relevant, irrelevant = self.relevance_example
        results = self.make().compress_documents([Document(irrelevant), Document(relevant)], query)
        assert [document.page_content for document in results] == [relevant, irrelevant]

    @pytest.mark.parametrize("top_n", [1, 2, len(TEXTS), len(TEXTS) + 1, 10_000])
    def test_top_n(self, documents: list[Document], top_n: int) -> None:
        every = self.make().compress_documents(documents, QUERY)
        best = self.make(top_n=top_n).compress_documents(documents, QUERY)
        assert [d.id for d in best] == [d.id for d in every][:top_n]

    @pytest.mark.parametrize("top_n", [-1, "many", 1.5])
    def test_invalid_top_n_is_rejected(self, top_n: Any) -> None:
        with pytest.raises(ValueError, match=self.top_n_name):
            self.make(**{self.top_n_name: top_n})

    def test_no_documents(self) -> None:
        assert list(self.make().compress_documents([], QUERY)) == []

    async def test_no_documents_async(self) -> None:
        assert list(await self.make().acompress_documents([], QUERY)) == []

    def test_empty_texts(self, documents: list[Document]) -> None:
        compressor = self.make()
        with_empty = [*documents, Document("")]
        if not self.takes_empty_text:
            with pytest.raises(ValueError, match=r"."):
                compressor.compress_documents(with_empty, QUERY)
            with pytest.raises(ValueError, match=r"."):
                compressor.compress_documents(documents, "")
            return
        for results in (
            compressor.compress_documents(with_empty, QUERY),
            compressor.compress_documents(with_empty, ""),
        ):
            assert len(results) == len(with_empty)
            assert all(math.isfinite(score) for score in self.scores(results))

    def test_equal_scores_keep_their_order(self, documents: list[Document]) -> None:
        twins = [Document(id=f"twin-{number:02}", page_content=TEXTS[1]) for number in range(40)]
        results = self.make().compress_documents([*twins[:20], *documents, *twins[20:]], QUERY)
        kept = [document for document in results if (document.id or "").startswith("twin")]
        scores = self.scores(kept)
        assert len(kept) == len(twins)
        assert max(scores) - min(scores) <= self.tolerance
        keys = [(-score, document.id) for score, document in zip(scores, kept, strict=True)]
        assert keys == sorted(keys)

    def test_score_does_not_depend_on_other_inputs(self, documents: list[Document]) -> None:
        compressor = self.make()
        together = compressor.compress_documents(documents, QUERY)
        for document, score in zip(together, self.scores(together), strict=True):
            [alone] = compressor.compress_documents([document], QUERY)
            assert self.scores([alone])[0] == pytest.approx(score, abs=self.tolerance)

    def test_wrong_types_are_rejected(self) -> None:
        compressor = self.make()
        with pytest.raises((TypeError, ValueError, AttributeError)):
            compressor.compress_documents([TEXTS[0]], QUERY)  # type: ignore[list-item]
        with pytest.raises((TypeError, ValueError, AttributeError)):
            compressor.compress_documents([Document(TEXTS[0])], None)  # type: ignore[arg-type]

    def test_unknown_setting_is_rejected(self) -> None:
        with pytest.raises((TypeError, ValueError), match="no_such_setting"):
            self.make(no_such_setting=1)

    async def test_async_is_sync(self, documents: list[Document]) -> None:
        compressor = self.make()
        expected = compressor.compress_documents(documents, QUERY)
        results = await compressor.acompress_documents(documents, QUERY)
        assert [d.id for d in results] == [d.id for d in expected]
        assert self.scores(results) == pytest.approx(self.scores(expected), abs=self.tolerance)

    async def test_concurrent_calls_do_not_mix(self, documents: list[Document]) -> None:
        compressor = self.make()
        calls = different_calls(documents, 30)
        concurrent = await asyncio.gather(
            *(compressor.acompress_documents(given, query) for query, given in calls)
        )
        for (query, given), results in zip(calls, concurrent, strict=True):
            self.assert_same(results, compressor.compress_documents(given, query))

    def test_threads_do_not_mix(self, documents: list[Document]) -> None:
        compressor = self.make()
        calls = different_calls(documents, 30)
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda c: compressor.compress_documents(c[1], c[0]), calls))
        for (query, given), results in zip(calls, parallel, strict=True):
            self.assert_same(results, compressor.compress_documents(given, query))

    def test_pickle_and_copy(self, documents: list[Document]) -> None:
        compressor = self.make(top_n=2)
        expected = compressor.compress_documents(documents, QUERY)
        twins = [copy.deepcopy(compressor)]
        if self.is_picklable:
            twins.append(pickle.loads(pickle.dumps(compressor)))
        for twin in twins:
            self.assert_same(twin.compress_documents(documents, QUERY), expected)

    def test_repr_is_one_readable_line(self) -> None:
        text = repr(self.make())
        assert text.startswith(self.compressor_class.__name__)
        assert "\n" not in text
        assert " at 0x" not in text

    def assert_same(self, results: Any, expected: Any) -> None:
        """Assert equal documents with nearly equal scores; near ties may swap."""
        found = {
            document.id: score
            for document, score in zip(results, self.scores(results), strict=True)
        }
        wanted = {
            document.id: score
            for document, score in zip(expected, self.scores(expected), strict=True)
        }
        assert found == pytest.approx(wanted, abs=self.tolerance)


class CrossEncoderTests:
    """Tests of a `BaseCrossEncoder`."""

    @property
    @abstractmethod
    def cross_encoder_class(self) -> type[BaseCrossEncoder]:
        """Class under test."""

    @property
    def cross_encoder_params(self) -> dict[str, Any]:
        """Arguments of its constructor."""
        return {}

    @property
    def tolerance(self) -> float:
        """Maximum difference that other inputs in the same batch make to a score."""
        return 0.02

    @pytest.fixture
    def encoder(self) -> BaseCrossEncoder:
        """Create the object to test."""
        return self.cross_encoder_class(**self.cross_encoder_params)

    def test_scores_are_a_list_of_floats(self, encoder: BaseCrossEncoder) -> None:
        scores = encoder.score([(QUERY, text) for text in TEXTS])
        assert type(scores) is list
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert len(set(scores)) == len(TEXTS)

    def test_no_pairs(self, encoder: BaseCrossEncoder) -> None:
        assert encoder.score([]) == []

    def test_any_iterable_is_a_list(self, encoder: BaseCrossEncoder) -> None:
        pairs = [(QUERY, text) for text in TEXTS]
        given: Any = iter(pairs)
        assert encoder.score(given) == pytest.approx(encoder.score(pairs), abs=self.tolerance)

    def test_order_is_that_of_the_pairs(self, encoder: BaseCrossEncoder) -> None:
        pairs = [(query, text) for text in TEXTS for query in (QUERY, "weather", "")]
        scores = encoder.score(pairs)
        assert encoder.score(pairs[::-1]) == pytest.approx(scores[::-1], abs=self.tolerance)
        for pair, score in zip(pairs, scores, strict=True):
            assert encoder.score([pair]) == pytest.approx([score], abs=self.tolerance)

    def test_query_and_document_are_told_apart(self, encoder: BaseCrossEncoder) -> None:
        there, back = encoder.score([(QUERY, TEXTS[1]), (TEXTS[1], QUERY)])
        assert there != back

    @pytest.mark.parametrize(
        "pairs",
        [[(QUERY,)], [QUERY], *([(QUERY, wrong), (wrong, QUERY)] for wrong in WRONG_TEXTS)],
        ids=ascii,
    )
    def test_wrong_types_are_rejected(self, encoder: BaseCrossEncoder, pairs: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            encoder.score(pairs)

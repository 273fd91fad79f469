"""The contract of embedding engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from quernstone.embedder import Embedder
from quernstone.errors import ClosedError, ConfigError, InputError, InputTooLongError
from quernstone.model import session_of
from quernstone.testing.base import Contract, Make
from quernstone.testing.capabilities import shows
from quernstone.testing.material import (
    CONTROL_TEXTS,
    ODD_TEXTS,
    QUERY,
    TEXTS,
    WRONG_LISTS,
    WRONG_TEXTS,
    different_calls,
)
from quernstone.types import Float32Array

# Mixed lengths, so that each batch holds short and long texts.
_MANY = [f"{text} {number} " * (number % 9 + 1) for number in range(8) for text in TEXTS]
_LENGTH = 32


class EmbedderContract(Contract[Embedder]):
    """A suite for one engine with one embedding model. See `quernstone.testing`."""

    core = Embedder
    task = "embed"
    agreement: ClassVar[float] = 0.99999
    """Smallest allowed cosine to the vectors of `reference`."""

    def assert_close(self, vectors: Any, expected: Any) -> None:
        """Assert that the vectors are equal within `tolerance`."""
        np.testing.assert_allclose(vectors, expected, atol=self.tolerance, rtol=0)

    @shows("order")
    def test_results_are_unit_vectors_in_input_order(self, subject: Embedder) -> None:
        vectors = subject.embed_documents(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), subject.dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        self.assert_close(subject.embed_documents(TEXTS[::-1])[::-1], vectors)
        products = vectors @ vectors.T
        assert (products - np.eye(len(TEXTS)) < 1 - 10 * self.tolerance**2).all(), "some are equal"

    @shows("order")
    def test_duplicates_have_equal_vectors(self, subject: Embedder) -> None:
        vectors = subject.embed_documents([TEXTS[1], *TEXTS, TEXTS[1]])
        self.assert_close(vectors[[0, -1]], vectors[[2, 2]])

    @shows("order")
    def test_nothing_in_nothing_out(self, subject: Embedder) -> None:
        assert subject.embed_documents([]).shape == (0, subject.dimensions)
        assert subject.embed_queries([]).shape == (0, subject.dimensions)
        assert list(subject.stream(iter([]))) == []
        assert asyncio.run(subject.aembed_documents([])).shape == (0, subject.dimensions)

    @shows("order")
    def test_a_stream_is_the_list(self, subject: Embedder) -> None:
        self.assert_close(list(subject.stream(iter(_MANY))), subject.embed_documents(_MANY))

    @shows("order")
    def test_any_iterable_is_a_list(self, subject: Embedder) -> None:
        expected = subject.embed_documents(TEXTS)
        self.assert_close(subject.embed_documents(text for text in TEXTS), expected)
        self.assert_close(asyncio.run(subject.aembed_documents(tuple(TEXTS))), expected)
        queries = asyncio.run(subject.aembed_queries(iter(TEXTS)))
        self.assert_close(subject.embed_queries(filter(None, TEXTS)), queries)

    @shows("any_text")
    @pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
    def test_any_text_has_a_vector(self, subject: Embedder, text: str) -> None:
        for vector in (subject.embed_documents([text])[0], subject.embed_query(text)):
            assert np.isfinite(vector).all()
            np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-6)

    @shows("wrong_input")
    @pytest.mark.parametrize("wrong", WRONG_TEXTS, ids=ascii)
    def test_a_wrong_text_is_named_by_index(self, subject: Embedder, wrong: Any) -> None:
        calls: list[Callable[[list[Any]], object]] = [
            subject.embed_documents,
            subject.embed_queries,
            lambda texts: list(subject.stream(iter(texts))),
            lambda texts: asyncio.run(subject.aembed_documents(texts)),
        ]
        for call in calls:
            with pytest.raises(InputError) as caught:
                call(["fine", "fine", wrong, "fine"])
            assert caught.value.index == 2

    @shows("wrong_input")
    @pytest.mark.parametrize("wrong", WRONG_LISTS, ids=ascii)
    def test_what_is_no_list_is_refused(self, subject: Embedder, wrong: Any) -> None:
        with pytest.raises(InputError, match="expected a list of strings"):
            subject.embed_documents(wrong)
        with pytest.raises(InputError, match="expected a list of strings"):
            list(subject.stream(wrong))

    @shows("wrong_input")
    def test_it_works_again_after_an_error(self, subject: Embedder) -> None:
        before = subject.embed_documents(TEXTS)
        with pytest.raises(InputError):
            subject.embed_documents([*TEXTS, None])  # type: ignore[list-item]
        self.assert_close(subject.embed_documents(TEXTS), before)

    @shows("wrong_input")
    def test_used_after_close(self, make: Make[Embedder]) -> None:
        closed = make()
        closed.close()
        with pytest.raises(ClosedError):
            closed.embed_query(QUERY)

    @shows("batch_mates")
    def test_batch_mates_change_nothing(
        self, subject: Embedder, record_property: Callable[[str, object], None]
    ) -> None:
        together = subject.embed_documents(_MANY)
        alone = np.concatenate([subject.embed_documents([text]) for text in _MANY])
        largest = float(np.abs(together - alone).max())
        record_property("measured", largest)
        assert largest <= self.tolerance

    @shows("threads")
    def test_threads_do_not_mix(self, subject: Embedder) -> None:
        texts = [f"{query} {text}" for query, some in different_calls(TEXTS) for text in some][:80]
        expected = subject.embed_documents(texts)
        with ThreadPoolExecutor(8) as pool:
            parallel = pool.map(lambda text: subject.embed_documents([text])[0], texts)
            self.assert_close(list(parallel), expected)

    @shows("coroutines")
    def test_coroutines_do_not_mix(self, subject: Embedder) -> None:
        async def run() -> list[Float32Array]:
            return await asyncio.gather(*map(subject.aembed_query, _MANY))

        expected = subject.embed_queries(_MANY)
        for _ in range(2):  # in a new event loop each time
            self.assert_close(asyncio.run(run()), expected)

    @shows("shared")
    def test_equal_settings_share_a_model(self, make: Make[Embedder]) -> None:
        one, two = make(), make(instruction="Find it", dimensions=32)
        assert session_of(one).backend is session_of(two).backend
        one.close()
        assert two.embed_query(QUERY).shape == (32,)

    @shows("dimensions")
    def test_dimensions_cut_then_normalise(self, subject: Embedder, make: Make[Embedder]) -> None:
        whole = subject.embed_documents(TEXTS)
        for dimensions in (32, subject.dimensions - 1):
            cut = whole[:, :dimensions]
            expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
            small = make(dimensions=dimensions)
            assert small.dimensions == dimensions
            self.assert_close(small.embed_documents(TEXTS), expected)
            self.assert_close(
                small.embed_query(QUERY), _unit(subject.embed_query(QUERY)[:dimensions])
            )

    @shows("dimensions")
    def test_dimensions_out_of_range(self, subject: Embedder, make: Make[Embedder]) -> None:
        for wrong in (0, subject.dimensions + 1):
            with pytest.raises(ConfigError, match=f"`dimensions` is {wrong}"):
                make(dimensions=wrong)

    @shows("instruction")
    def test_an_instruction_changes_queries(self, subject: Embedder, make: Make[Embedder]) -> None:
        other = make(instruction="Find the code that does it")
        plain = subject.embed_query(QUERY)
        assert np.abs(other.embed_query(QUERY) - plain).max() > 1e-3
        self.assert_close(
            subject.embed_query(QUERY, "Find the code that does it"), other.embed_query(QUERY)
        )
        self.assert_close(other.embed_documents(TEXTS), subject.embed_documents(TEXTS))

    @shows("instruction")
    def test_a_query_is_the_document_behind_its_prompt(self, make: Make[Embedder]) -> None:
        embedder = make(instruction="Find the code that does it")
        prompted = embedder.format_query(QUERY)
        assert prompted == f"Instruct: Find the code that does it\nQuery:{QUERY}"
        self.assert_close(embedder.embed_query(QUERY), embedder.embed_documents([prompted])[0])

    @shows("long")
    def test_a_long_text_is_cut_before_its_last_token(
        self, make: Make[Embedder], reference: Embedder | None
    ) -> None:
        short = make(max_length=_LENGTH)
        texts = ["a", " word" * (_LENGTH * 2), " word" * 20_000]
        vectors = short.embed_documents(texts)
        self.assert_close(vectors[1], vectors[2])
        if reference is not None:
            with self.like(reference, max_length=_LENGTH) as cutting:
                expected = cutting.embed_documents(texts)
            assert (vectors * expected).sum(axis=1).min() >= self.agreement

    @shows("too_long")
    def test_a_long_text_is_refused_on_request(self, make: Make[Embedder]) -> None:
        strict = make(max_length=_LENGTH, truncate=False)
        with pytest.raises(InputTooLongError) as caught:
            strict.embed_documents(["a", "b", " word" * 99, "c"])
        assert caught.value.index == 2
        assert strict.embed_documents(["a", "b"]).shape == (2, strict.dimensions)

    @shows("control_tokens")
    def test_control_tokens_are_text(self, subject: Embedder, reference: Embedder | None) -> None:
        vectors = subject.embed_documents([*CONTROL_TEXTS, "", "a quern"])
        # Parsed as control tokens, the first text would be empty and the second would end twice.
        assert np.abs(vectors[:2] - vectors[-2:]).max(axis=1).min() > 1e-3
        if reference is not None:
            expected = reference.embed_documents(CONTROL_TEXTS)
            assert (vectors[:3] * expected).sum(axis=1).min() >= self.agreement

    @shows("usage")
    def test_usage_counts_tokens(self, make: Make[Embedder]) -> None:
        embedder = make(max_length=_LENGTH)
        embedder.embed_documents(["a", " word" * 99])
        usage = embedder.usage
        assert (usage.inputs, usage.tokens, usage.truncated) == (2, 2 + _LENGTH, 1)

    @shows("agreement")
    def test_vectors_are_those_of_the_reference(
        self,
        subject: Embedder,
        reference: Embedder | None,
        record_property: Callable[[str, object], None],
    ) -> None:
        if reference is None:
            pytest.skip("no `reference` is given")
        texts = [*TEXTS, *ODD_TEXTS, *_MANY]
        found = np.concatenate((subject.embed_documents(texts), subject.embed_queries(texts)))
        wanted = np.concatenate((reference.embed_documents(texts), reference.embed_queries(texts)))
        # In float64, because the last digits matter here.
        least = float((found.astype(np.float64) * wanted).sum(axis=1).min())
        record_property("measured", min(least, 1.0))
        assert least >= self.agreement


def _unit(vector: Float32Array) -> Float32Array:
    unit: Float32Array = vector / np.linalg.norm(vector)
    return unit

"""The contract of reranking engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from quernstone.errors import ClosedError, ConfigError, InputError, InputTooLongError
from quernstone.model import session_of
from quernstone.reranker import Reranker
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
from quernstone.types import Float32Array, RankedDocument

_MANY = [
    (f"{QUERY} {number % 3}", f"{text} {number} " * (number % 9 + 1))
    for number in range(8)
    for text in TEXTS
]


class RerankerContract(Contract[Reranker]):
    """A suite for one engine with one reranker. See `quernstone.testing`."""

    core = Reranker
    task = "rerank"
    agreement: ClassVar[float] = 1e-5
    """Largest allowed difference to the scores of `reference`."""
    max_length: ClassVar[int] = 128
    """Tokens: enough for the prompt with a short query, too few for a document of 200 words."""

    def assert_close(self, scores: Any, expected: Any) -> None:
        """Assert that the scores are equal within `tolerance`."""
        np.testing.assert_allclose(scores, expected, atol=self.tolerance, rtol=0)

    @shows("order")
    def test_scores_are_probabilities_in_input_order(self, subject: Reranker) -> None:
        scores = subject.score(_MANY)
        assert scores.dtype == np.float32
        assert scores.shape == (len(_MANY),)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert np.ptp(scores) > 10 * self.tolerance, "the scores are all equal"
        self.assert_close(subject.score(_MANY[::-1])[::-1], scores)

    @shows("order")
    def test_duplicates_have_equal_scores(self, subject: Reranker) -> None:
        scores = subject.score([_MANY[7], *_MANY, _MANY[7]])
        self.assert_close(scores[[0, -1]], scores[[8, 8]])

    @shows("order")
    def test_nothing_in_nothing_out(self, subject: Reranker) -> None:
        assert subject.score([]).shape == (0,)
        assert subject.rerank(QUERY, []) == []
        assert asyncio.run(subject.arerank(QUERY, [])) == []

    @shows("order")
    def test_reranking_sorts_the_scores(self, subject: Reranker) -> None:
        scores = subject.score([(QUERY, text) for text in TEXTS])
        ranked = subject.rerank(QUERY, TEXTS)
        assert sorted(each.index for each in ranked) == list(range(len(TEXTS)))
        assert [each.score for each in ranked] == sorted((e.score for e in ranked), reverse=True)
        self.assert_close([each.score for each in ranked], scores[[e.index for e in ranked]])
        assert [e.index for e in subject.rerank(QUERY, TEXTS, 2)] == [e.index for e in ranked[:2]]

    @shows("order")
    def test_many_queries_rank_as_each_alone(self, subject: Reranker) -> None:
        queries, lists = [QUERY, TEXTS[0], QUERY], [TEXTS, TEXTS[1:], TEXTS[::-1]]
        ranked = subject.rerank_many(queries, lists)
        best = asyncio.run(subject.arerank_many(queries, lists, 1))
        self.assert_close([own[0].score for own in best], [own[0].score for own in ranked])
        for query, texts, own in zip(queries, lists, ranked, strict=True):
            scores = subject.score([(query, text) for text in texts])
            assert sorted(each.index for each in own) == list(range(len(texts)))
            self.assert_close([each.score for each in own], scores[[e.index for e in own]])
        shared = subject.rerank_many(queries, TEXTS)
        self.assert_close([e.score for e in shared[0]], [e.score for e in ranked[0]])

    @shows("order")
    def test_any_iterable_is_a_list(self, subject: Reranker) -> None:
        ranked = subject.rerank(QUERY, TEXTS)
        for own in (
            subject.rerank(QUERY, (text for text in TEXTS)),
            asyncio.run(subject.arerank(QUERY, iter(TEXTS))),
            *subject.rerank_many(iter([QUERY]), iter(TEXTS)),
            *asyncio.run(subject.arerank_many(iter([QUERY]), iter([iter(TEXTS)]))),
        ):
            scores = {each.index: each.score for each in own}
            self.assert_close([scores[each.index] for each in ranked], [e.score for e in ranked])
        pairs = [(QUERY, text) for text in TEXTS]
        self.assert_close(subject.score(iter(pairs)), subject.score(pairs))

    @shows("order")
    def test_query_and_document_are_told_apart(self, subject: Reranker) -> None:
        there, back = subject.score([(QUERY, TEXTS[1]), (TEXTS[1], QUERY)])
        assert abs(there - back) > self.tolerance

    @shows("any_text")
    @pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
    def test_any_text_has_a_score(self, subject: Reranker, text: str) -> None:
        scores = subject.score([(QUERY, text), (text, TEXTS[0]), (text, text)])
        assert ((scores >= 0) & (scores <= 1)).all()

    @shows("wrong_input")
    @pytest.mark.parametrize("wrong", WRONG_TEXTS, ids=ascii)
    def test_a_wrong_text_is_named_by_index(self, subject: Reranker, wrong: Any) -> None:
        with pytest.raises(InputError) as caught:
            subject.rerank(QUERY, ["fine", "fine", wrong])
        assert caught.value.index == 2
        for pair in ((QUERY, wrong), (wrong, TEXTS[0])):
            pairs: list[Any] = [(QUERY, "fine"), pair, (QUERY, "fine")]
            with pytest.raises(InputError) as caught:
                subject.score(pairs)
            assert caught.value.index == 1
            with pytest.raises(InputError) as caught:
                asyncio.run(subject.ascore(pairs))
            assert caught.value.index == 1

    @shows("wrong_input")
    @pytest.mark.parametrize("wrong", WRONG_LISTS, ids=ascii)
    def test_what_is_no_list_is_refused(self, subject: Reranker, wrong: Any) -> None:
        with pytest.raises(InputError, match="expected a list of strings"):
            subject.rerank(QUERY, wrong)

    @shows("wrong_input")
    @pytest.mark.parametrize("wrong", ["ab", (QUERY,), (QUERY, "b", "c"), None, {"a": 1, "b": 2}])
    def test_what_is_no_pair_is_named_by_index(self, subject: Reranker, wrong: Any) -> None:
        with pytest.raises(InputError, match=r"expected a \(query, document\) pair") as caught:
            subject.score([(QUERY, "fine"), wrong])
        assert caught.value.index == 1

    @shows("wrong_input")
    @pytest.mark.parametrize("top_n", [0, -1, 1.5, True])
    def test_a_senseless_top_n_is_refused(self, subject: Reranker, top_n: Any) -> None:
        with pytest.raises(ConfigError, match="`top_n` is"):
            subject.rerank(QUERY, TEXTS, top_n)

    @shows("wrong_input")
    def test_used_after_close(self, make: Make[Reranker]) -> None:
        closed = make()
        closed.close()
        with pytest.raises(ClosedError):
            closed.score([(QUERY, TEXTS[0])])

    @shows("batch_mates")
    def test_batch_mates_change_nothing(
        self, subject: Reranker, record_property: Callable[[str, object], None]
    ) -> None:
        together = subject.score(_MANY)
        alone = np.concatenate([subject.score([pair]) for pair in _MANY])
        largest = float(np.abs(together - alone).max())
        record_property("measured", largest)
        assert largest <= self.tolerance

    @shows("threads")
    def test_threads_do_not_mix(self, subject: Reranker) -> None:
        calls = different_calls(TEXTS, 30)
        expected = [subject.score([(query, text) for text in some]) for query, some in calls]
        with ThreadPoolExecutor(8) as pool:
            ranked = list(pool.map(lambda call: subject.rerank(*call), calls))
        for scores, result in zip(expected, ranked, strict=True):
            self.assert_close(_by_index(result), scores)

    @shows("coroutines")
    def test_coroutines_do_not_mix(self, subject: Reranker) -> None:
        calls = different_calls(TEXTS, 30)

        async def run() -> list[list[RankedDocument]]:
            return await asyncio.gather(*(subject.arerank(*call) for call in calls))

        expected = [subject.score([(query, text) for text in some]) for query, some in calls]
        for _ in range(2):  # in a new event loop each time
            for scores, result in zip(expected, asyncio.run(run()), strict=True):
                self.assert_close(_by_index(result), scores)

    @shows("shared")
    def test_equal_settings_share_a_model(self, make: Make[Reranker]) -> None:
        one, two = make(), make()
        assert session_of(one).backend is session_of(two).backend
        one.close()
        assert two.score([(QUERY, TEXTS[0])]).shape == (1,)

    @shows("instruction")
    def test_an_instruction_changes_scores(self, subject: Reranker, make: Make[Reranker]) -> None:
        pairs = [(QUERY, text) for text in TEXTS]
        instruction = "Find the code that does it"
        instructed = make(instruction=instruction).score(pairs)
        assert np.abs(instructed - subject.score(pairs)).max() > 10 * self.tolerance
        self.assert_close(subject.score(pairs, instruction), instructed)
        default = subject.instruction
        queries, texts = [query for query, _ in pairs], [[text] for _, text in pairs]
        asked = [instruction if place % 2 else default for place in range(len(pairs))]
        mixed = [own[0].score for own in subject.rerank_many(queries, texts, instruction=asked)]
        self.assert_close(mixed[1::2], instructed[1::2])

    @shows("template")
    def test_templates_differ(
        self, subject: Reranker, make: Make[Reranker], reference: Reranker | None
    ) -> None:
        pairs = [(QUERY, text) for text in TEXTS]
        other = make(template="eval", instruction=subject.instruction)
        scores = other.score(pairs)
        assert np.abs(scores - subject.score(pairs)).max() > 10 * self.tolerance
        if reference is not None:
            with self.like(reference, template="eval") as rendering:
                wanted = rendering.score(pairs, subject.instruction)
            np.testing.assert_allclose(scores, wanted, atol=self.agreement, rtol=0)

    @shows("long")
    def test_a_long_document_is_cut_and_the_prompt_is_not(
        self, make: Make[Reranker], reference: Reranker | None
    ) -> None:
        short = make(max_length=self.max_length)
        pairs = [(QUERY, " word" * 200), (QUERY, " word" * 20_000)]
        scores = short.score(pairs)
        self.assert_close(scores[0], scores[1])
        if reference is not None:
            with self.like(reference, max_length=self.max_length) as cutting:
                wanted = cutting.score(pairs)
            np.testing.assert_allclose(scores, wanted, atol=self.agreement, rtol=0)

    @shows("too_long")
    def test_a_long_document_is_refused_on_request(self, make: Make[Reranker]) -> None:
        strict = make(max_length=self.max_length, truncate=False)
        with pytest.raises(InputTooLongError) as caught:
            strict.rerank(QUERY, ["a", "b", " word" * 200])
        assert caught.value.index == 2
        assert len(strict.rerank(QUERY, ["a", "b"])) == 2

    @shows("control_tokens")
    def test_control_tokens_are_text(self, subject: Reranker, reference: Reranker | None) -> None:
        if reference is None:
            pytest.skip("no `reference` is given")
        pairs = [(QUERY, text) for text in CONTROL_TEXTS] + [(t, TEXTS[0]) for t in CONTROL_TEXTS]
        np.testing.assert_allclose(
            subject.score(pairs), reference.score(pairs), atol=self.agreement, rtol=0
        )

    @shows("usage")
    def test_usage_counts_tokens(self, make: Make[Reranker]) -> None:
        reranker = make(max_length=self.max_length)
        reranker.score([(QUERY, "a"), (QUERY, " word" * 200)])
        usage = reranker.usage
        assert (usage.inputs, usage.truncated) == (2, 1)
        assert self.max_length < usage.tokens < 2 * self.max_length

    @shows("agreement")
    def test_scores_are_those_of_the_reference(
        self,
        subject: Reranker,
        reference: Reranker | None,
        record_property: Callable[[str, object], None],
    ) -> None:
        if reference is None:
            pytest.skip("no `reference` is given")
        pairs = [*_MANY, *((QUERY, text) for text in ODD_TEXTS)]
        largest = float(np.abs(subject.score(pairs) - reference.score(pairs)).max())
        record_property("measured", largest)
        assert largest <= self.agreement


def _by_index(ranked: list[RankedDocument]) -> Float32Array:
    """Return the scores in document order."""
    scores = np.empty(len(ranked), dtype=np.float32)
    for each in ranked:
        scores[each.index] = each.score
    return scores

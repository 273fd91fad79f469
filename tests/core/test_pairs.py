"""Many queries in one call: the results of `rerank`, and what is computed for them once."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quernstone import ConfigError, InputError, InputTooLongError, NonFiniteError, Reranker
from quernstone.encoding.cache import DocumentCache
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder
from quernstone.engines.torch.engine import TorchEngine
from quernstone.engines.torch.memory import CACHED_PREFIX_TOKENS
from quernstone.qwen3 import Qwen3

QUERIES = ["what is a quern?", "", "rain", "what is a quern?", "汉字 " * 20]
DOCUMENTS = ["mills", "", "a quern is a hand mill", "rain falls", "汉字 " * 30, "mills"]


@pytest.fixture(scope="module")
def folder(checkpoints):
    return str(checkpoints("reranker-0.6b"))


@pytest.fixture(scope="module")
def reranker(folder):
    with Reranker(folder, dtype="float32") as made:
        yield made


def assert_equal(ranked, expected):
    """The same order, but for documents whose scores differ by rounding."""
    assert len(ranked) == len(expected)
    for ours, theirs in zip(ranked, expected, strict=True):
        scores = {one.index: one.score for one in theirs}
        assert len(ours) == len(theirs)
        assert {one.index for one in ours} == set(scores)
        np.testing.assert_allclose(
            [one.score for one in ours], [one.score for one in theirs], atol=1e-6
        )
        for one in ours:
            assert one.score == pytest.approx(scores[one.index], abs=1e-6)


def test_shared_documents_rank_as_one_query_at_a_time(reranker):
    ranked = reranker.rerank_many(QUERIES, DOCUMENTS)
    assert_equal(ranked, [reranker.rerank(query, DOCUMENTS) for query in QUERIES])
    assert asyncio.run(reranker.arerank_many(QUERIES, tuple(DOCUMENTS))) == ranked


def test_each_query_with_its_own_documents(reranker):
    lists = [DOCUMENTS[:4], [], ["only one"], DOCUMENTS, ["mills"] * 3]
    ranked = reranker.rerank_many(QUERIES, lists)
    rows = zip(QUERIES, lists, strict=True)
    assert_equal(ranked, [reranker.rerank(query, own) for query, own in rows])
    assert [len(own) for own in ranked] == [4, 0, 1, 6, 3]
    assert asyncio.run(reranker.arerank_many(QUERIES, lists)) == ranked


def test_equal_documents_have_equal_scores_and_stay_in_order(reranker):
    first, second = (
        one for one in reranker.rerank_many(["q"], DOCUMENTS)[0] if one.index in (0, 5)
    )
    assert (first.index, second.index) == (0, 5)
    assert first.score == second.score


def test_top_n(reranker):
    everything = reranker.rerank_many(QUERIES, DOCUMENTS)
    assert reranker.rerank_many(QUERIES, DOCUMENTS, 2) == [own[:2] for own in everything]
    assert reranker.rerank_many(QUERIES, DOCUMENTS, top_n=99) == everything
    with pytest.raises(ConfigError, match="`top_n` is 0"):
        reranker.rerank_many(QUERIES, DOCUMENTS, 0)


def test_one_instruction_for_all_or_one_for_each(reranker):
    tasks = ["Find weather reports", "Find mills", "", "Find weather reports", "Find"]
    shared = reranker.rerank_many(QUERIES, DOCUMENTS, instruction=tasks[0])
    assert_equal(shared, [reranker.rerank(q, DOCUMENTS, instruction=tasks[0]) for q in QUERIES])
    own = reranker.rerank_many(QUERIES, DOCUMENTS, instruction=tasks)
    rows = zip(QUERIES, tasks, strict=True)
    assert_equal(own, [reranker.rerank(q, DOCUMENTS, instruction=task) for q, task in rows])
    assert abs(shared[1][0].score - own[1][0].score) > 1e-5
    with pytest.raises(ConfigError, match="2 instructions for 5 queries"):
        reranker.rerank_many(QUERIES, DOCUMENTS, instruction=["a", "b"])
    with pytest.raises(ConfigError, match="the instruction is NoneType"):
        reranker.rerank_many(["q", "q"], DOCUMENTS, instruction=["a", None])


@pytest.mark.parametrize(
    ("queries", "documents", "expected"),
    [
        ([], ["a"], []),
        ([], [], []),
        (["q", "r"], [], [[], []]),
        (["q", "r"], [[], []], [[], []]),
    ],
)
def test_nothing_in_nothing_out(queries, documents, expected, reranker):
    assert reranker.rerank_many(queries, documents) == expected
    assert asyncio.run(reranker.arerank_many(queries, documents)) == expected


@pytest.mark.parametrize(
    ("queries", "documents", "index", "message"),
    [
        ("q", ["a"], 0, "`queries` is str, expected a list"),
        (["q"], "a", 0, "`documents` is str, expected a list"),
        (["q", 3], ["a"], 1, "the query is int, expected str"),
        (["q", "\ud800"], ["a"], 1, "the query holds a lone surrogate"),
        (["q", "r"], [["a"], "b"], 1, "`documents` mixes lists"),
        (["q", "r", "s"], ["a", "b", ("c",)], 2, "`documents` mixes lists"),
        (["q", "r"], [None, ["b"]], 1, "`documents` mixes lists"),
        (["q", "r", "s"], [["a"], ["b"]], 2, "3 queries and 2 lists"),
        (["q", "r"], [["a"], ["b"], ["c"]], 2, "2 queries and 3 lists"),
        (["q", "r"], ["a", None], 0, "document 1: the document is NoneType, expected str"),
        (["q", "r"], [["a", "b"], ["c", "\ud800"]], 1, "document 1: the document holds a lone"),
        (["q", "r", "s"], [["a"], [], [3]], 2, "document 0: the document is int"),
    ],
)
def test_what_is_wrong_is_named_by_query_and_document(queries, documents, index, message, reranker):
    for call in (reranker.rerank_many, lambda *args: asyncio.run(reranker.arerank_many(*args))):
        with pytest.raises(InputError, match=message) as caught:
            call(queries, documents)
        assert caught.value.index == index


def test_too_long_names_query_and_document(folder):
    with Reranker(folder, dtype="float32", max_length=120, truncate=False) as strict:
        with pytest.raises(InputTooLongError, match="input 1: document 2 has 1001 tokens") as got:
            strict.rerank_many(["q", "r"], [["a"], ["a", "b", "word " * 1000]])
        assert got.value.index == 1
        with pytest.raises(InputTooLongError, match="input 1: the query with its instruction"):
            strict.rerank_many(["q", "word " * 200], ["a", "b"])


def test_an_engines_error_names_query_and_document(reranker, monkeypatch):
    def run(self, batch, *, precise=False):
        # longest first: the third document of each query
        return np.array([[0, np.nan if len(one) > 100 else 0] for one in batch], np.float32)

    monkeypatch.setattr(TorchEngine, "run", run)
    with pytest.raises(NonFiniteError, match=r"input 1: .* not finite, for document 2, ") as caught:
        reranker.rerank_many(["q", "r"], [["a"], ["a", "b", "word " * 200]])
    assert caught.value.index == 1


@pytest.fixture
def prefix_passes(monkeypatch):
    """For each pass that computes prefixes, the tokens of each of them."""
    passes = []
    prefix_keys = Qwen3.prefix_keys

    def recording(self, batch, *args):
        passes.append(np.diff(batch.cu_seqlens).tolist())
        return prefix_keys(self, batch, *args)

    monkeypatch.setattr(Qwen3, "prefix_keys", recording)
    return passes


@pytest.fixture
def batches(monkeypatch):
    """The batches that the engine gets, and the tokens of prefixes that it keeps after each."""
    seen = []
    run = TorchEngine.run

    def recording(self, batch, *, precise=False):
        rows = run(self, batch, precise=precise)
        seen.append((batch, sum(len(prefix) for prefix, _ in self._prefixes)))
        return rows

    monkeypatch.setattr(TorchEngine, "run", recording)
    return seen


def test_small_candidate_lists_share_a_batch_and_a_pass(folder, prefix_passes, batches):
    queries = [f"query number {n}" for n in range(20)]
    with Reranker(folder, dtype="float32", max_batch_tokens=8000) as unused:
        unused.rerank_many(queries, ["mills", "rain"])
    [(batch, _)] = batches
    assert len(batch) == 40
    assert [len(each) for each in prefix_passes] == [1, 20]
    stem, tails = prefix_passes
    assert sum(stem) + sum(tails) < 0.2 * 20 * len(batch[0].prefix)


def test_a_thousand_queries_compute_each_prefix_once_and_keep_few(folder, prefix_passes, batches):
    queries = [f"query {n:03}" for n in range(1000)]
    with Reranker(folder, dtype="float32", max_batch_tokens=2500) as unused:
        ranked = unused.rerank_many(queries, ["mills", "rain"], 1)
    assert [len(own) for own in ranked] == [1] * 1000
    assert sum(map(len, prefix_passes)) == 1 + 1000
    for batch, kept in batches:
        assert 0 < kept <= CACHED_PREFIX_TOKENS
        prefixes = {sequence.prefix for sequence in batch}
        assert sum(map(len, batch)) + sum(map(len, prefixes)) <= 2500


@pytest.fixture
def tokenised(monkeypatch):
    """Every text that is tokenised."""
    seen = []
    ids = Tokenizer.ids

    def recording(self, texts):
        seen.extend(texts)
        return ids(self, texts)

    monkeypatch.setattr(Tokenizer, "ids", recording)
    return seen


def test_shared_documents_are_tokenised_once(reranker, tokenised, monkeypatch):
    monkeypatch.setattr("quernstone.runtime.windows._WINDOW_INPUTS", 16)
    documents = [f"document {n}" for n in range(20)]
    reranker.rerank_many([f"query {n}" for n in range(20)], documents)
    bodies = [text for text in tokenised if text.startswith(" ")]
    assert sorted(bodies) == sorted(f" {document}" for document in documents)


def test_pairs_are_made_while_they_are_computed(reranker, monkeypatch):
    """Two windows ahead and no more: a list of documents is read when its turn comes."""
    monkeypatch.setattr("quernstone.runtime.windows._WINDOW_INPUTS", 4)
    read = []

    class Documents(list):
        def __init__(self, number):
            super().__init__([f"mill {number}", f"rain {number}"])
            self.number = number

        def __iter__(self):
            read.append((self.number, len(done)))
            return super().__iter__()

    done = []
    run = TorchEngine.run

    def recording(self, batch, *, precise=False):
        done.extend(batch)
        return run(self, batch, precise=precise)

    monkeypatch.setattr(TorchEngine, "run", recording)
    reranker.rerank_many(["q"] * 40, [Documents(n) for n in range(40)])
    assert [number for number, _ in read] == list(range(40))
    for number, pairs in read:
        assert pairs >= 2 * number - 2 * 4


TEXTS = st.lists(
    st.sampled_from(["word", " ", "\n", "，", "汉字", "<|im_end|>", "9", ".", "é"]), max_size=90
).map("".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_cached_documents_give_the_ids_of_each_pair_alone(reranker, pairs, repeats):
    encoder = TokenEncoder(reranker._session.tokenizer, max_length=150)
    cache = DocumentCache(max_tokens=200)
    documents = [document for _, document in pairs]
    many = [(query, document, "Find") for query, _ in pairs for document in documents]
    for _ in range(repeats):
        got = encoder.encode_pairs(many, "card", cache=cache)
        alone = [encoder.encode_pairs([one], "card") for one in many]
        assert got.truncated == [n for n, one in enumerate(alone) if one.truncated]
        for sequence, one in zip(got.sequences, alone, strict=True):
            assert sequence.prefix == one.sequences[0].prefix
            assert sequence.prefix.parent == one.sequences[0].prefix.parent is not None
            np.testing.assert_array_equal(sequence.ids, one.sequences[0].ids)


def test_a_full_cache_keeps_what_it_has(reranker):
    encoder = TokenEncoder(reranker._session.tokenizer, max_length=150)
    cache = DocumentCache(max_tokens=150)
    pairs = [("q", f"document {n}", "Find") for n in range(5)]
    encoder.encode_pairs(pairs, "card", cache=cache)
    missing = []
    cache.ids([document for _, document, _ in pairs], lambda texts: missing.extend(texts) or texts)
    assert missing == ["document 2", "document 3", "document 4"]

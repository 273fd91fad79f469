"""What a user of `Embedder` sees, on a small random checkpoint of the 0.6B layout."""

import asyncio
import itertools
import logging
import threading

import numpy as np
import pytest
import torch

from quernstone import (
    ClosedError,
    ConfigError,
    Embedder,
    EngineMemoryError,
    InputError,
    InputTooLongError,
    NonFiniteError,
)
from quernstone.engines.torch.engine import TorchEngine
from quernstone.errors import EngineMemoryError as EngineMemory
from quernstone.runtime import windows

TEXTS = ["", "a", "the quick brown fox", "import numpy as np", "汉字 and more " * 40, "a"]


@pytest.fixture(scope="module")
def folder(checkpoints):
    return str(checkpoints("embedding-0.6b"))


@pytest.fixture(scope="module")
def embedder(folder):
    with Embedder(folder, dtype="float32") as made:
        yield made


def test_vectors_are_unit_float32_in_input_order(embedder):
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[1], vectors[5], atol=1e-6)
    backwards = embedder.embed_documents(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(vectors, backwards, atol=1e-6)


def test_nothing_in_nothing_out(embedder):
    assert embedder.embed_documents([]).shape == (0, 128)
    assert embedder.embed_queries([]).shape == (0, 128)
    assert list(embedder.stream(iter([]))) == []
    assert asyncio.run(embedder.aembed_documents([])).shape == (0, 128)


def test_a_query_is_the_document_with_the_prompt(embedder):
    text = "what is a quern?"
    assert embedder.format_query(text) == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        f"Query:{text}"
    )
    as_document = embedder.embed_documents([embedder.format_query(text)])[0]
    np.testing.assert_allclose(embedder.embed_query(text), as_document, atol=1e-6)
    bare = embedder.embed_documents([text])[0]
    assert np.abs(embedder.embed_query(text) - bare).max() > 1e-3
    np.testing.assert_allclose(embedder.embed_query(text, instruction=""), bare, atol=1e-6)


def test_an_instruction_changes_queries_and_not_documents(folder, embedder):
    with Embedder(folder, dtype="float32", instruction="Find the code") as other:
        assert other.instruction == "Find the code"
        assert np.abs(other.embed_query("q") - embedder.embed_query("q")).max() > 1e-3
        np.testing.assert_array_equal(other.embed_documents(["q"]), embedder.embed_documents(["q"]))
        np.testing.assert_allclose(
            other.embed_query("q"), embedder.embed_query("q", "Find the code"), atol=1e-6
        )


@pytest.mark.parametrize("dimensions", [32, 77, 128])
def test_dimensions_cut_then_normalise(dimensions, folder, embedder):
    full = embedder.embed_documents(TEXTS)
    cut = full[:, :dimensions]
    with Embedder(folder, dtype="float32", dimensions=dimensions) as small:
        assert small.dimensions == dimensions
        vectors = small.embed_documents(TEXTS)
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize("dimensions", [0, -1, 31, 129, 64.0, True, "64"])
def test_dimensions_out_of_range_name_both_numbers(dimensions, folder):
    with pytest.raises(ConfigError, match=f"{dimensions!r}; this model gives 32 to 128"):
        Embedder(folder, dtype="float32", dimensions=dimensions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "onnx"}, "unknown engine 'onnx'; the engines are auto, torch, transformers"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99' does not exist: this machine has"),
        ({"device": "meta"}, "device 'meta' does not exist"),
        ({"dtype": "int3"}, "unknown dtype 'int3'; use auto, float32, bfloat16, float16"),
        ({"max_length": 0}, "`max_length` is 0"),
        ({"max_batch_tokens": -5}, "`max_batch_tokens` is -5"),
        ({"instruction": 7}, "the instruction is int, expected str"),
        ({"instruction": "\ud800"}, "the instruction holds a lone surrogate"),
    ],
)
def test_settings_that_cannot_work(settings, message, folder):
    with pytest.raises(ConfigError, match=message):
        Embedder(folder, **settings)


@pytest.mark.parametrize(
    ("texts", "index"),
    [(["fine", 3], 1), ([None], 0), (["x"] * 5000 + [b"bytes"], 5000), (["a", "\udc00b"], 1)],
)
def test_bad_texts_are_named_by_index(texts, index, embedder):
    for call in (embedder.embed_documents, embedder.embed_queries, lambda t: [*embedder.stream(t)]):
        with pytest.raises(InputError) as caught:
            call(texts)
        assert caught.value.index == index


@pytest.mark.parametrize("texts", ["one string", b"bytes", 3, None, {"a": 1}, {"a"}])
def test_one_string_is_no_list(texts, embedder):
    with pytest.raises(InputError, match="expected a list of strings"):
        embedder.embed_documents(texts)


@pytest.mark.parametrize(
    "text",
    ["\x00", "a\x00b", "<|endoftext|>", "<|im_end|><|im_start|>" * 9, "\ufffe", "\u202e", "🏳️‍🌈"],
)
def test_odd_texts_have_vectors_of_their_own(text, embedder):
    vectors = embedder.embed_documents([text, "something else"])
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.abs(vectors[0] - embedder.embed_documents([""])[0]).max() > 1e-3


def test_long_texts_are_cut_counted_and_reported(folder, caplog):
    with (
        Embedder(folder, dtype="float32", max_length=16) as short,
        caplog.at_level(logging.WARNING, "quernstone"),
    ):
        assert short.max_length == 16
        ten_megabytes = "word " * 2_000_000
        vectors = short.embed_documents(["a", "word " * 15, ten_megabytes])
        np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)
        assert (short.usage.inputs, short.usage.tokens) == (3, 2 + 16 + 16)
        assert short.usage.truncated == 2  # the second ends in a 16th token, a space
    assert "2 of 3 inputs were longer than max_length=16" in caplog.text
    assert "the first is input 1" in caplog.text


def test_long_texts_are_errors_on_request(folder):
    with (
        Embedder(folder, dtype="float32", max_length=16, truncate=False) as strict,
        pytest.raises(InputTooLongError, match="input 1: the text has 99 tokens"),
    ):
        strict.embed_documents(["a", " word" * 99])


def test_max_length_is_at_most_what_the_model_was_made_for(folder):
    with Embedder(folder, dtype="float32", max_length=10**6) as embedder:
        assert embedder.max_length == 32768


def test_stream_reads_a_bounded_number_ahead_and_keeps_order(embedder, monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_INPUTS", 4)
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield f"text {number}"

    stream = embedder.stream(endless())
    got = [next(stream) for _ in range(10)]
    stream.close()
    assert len(read) <= 10 + 2 * 4
    expected = embedder.embed_documents([f"text {n}" for n in range(10)])
    np.testing.assert_allclose(np.stack(got), expected, atol=1e-6)


def test_an_error_in_a_stream_has_the_index_from_its_start(embedder, monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_INPUTS", 4)
    stream = embedder.stream(iter(["a"] * 9 + [None]))
    got = [next(stream) for _ in range(4)]  # windows before the faulty one come out
    with pytest.raises(InputError, match="input 9"):
        got += stream


async def test_async_twins_give_the_same(embedder):
    documents, queries, query = await asyncio.gather(
        embedder.aembed_documents(TEXTS),
        embedder.aembed_queries(TEXTS),
        embedder.aembed_query(TEXTS[2]),
    )
    np.testing.assert_allclose(documents, embedder.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(queries, embedder.embed_queries(TEXTS), atol=1e-6)
    np.testing.assert_allclose(query, queries[2], atol=1e-6)
    many = await embedder.aembed_documents([f"text {n}" for n in range(40)])
    assert many.shape == (40, 128)


async def test_astream_takes_both_kinds_of_iterators(embedder, monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_INPUTS", 2)

    async def texts():
        for text in TEXTS:
            yield text

    expected = embedder.embed_documents(TEXTS)
    for source in (texts(), iter(TEXTS)):
        got = [vector async for vector in embedder.astream(source)]
        np.testing.assert_allclose(np.stack(got), expected, atol=1e-6)


async def test_concurrent_queries_share_batches(embedder, monkeypatch):
    sizes = []
    gate = threading.Event()
    run = TorchEngine.run

    def counting(self, batch, **kwargs):
        sizes.append(len(batch))
        gate.wait(10)
        return run(self, batch, **kwargs)

    monkeypatch.setattr(TorchEngine, "run", counting)
    queries = [f"query {n}" for n in range(64)]
    waiting = [asyncio.ensure_future(embedder.aembed_query(query)) for query in queries]
    for _ in range(2):  # they let each other come as far as this, and are submitted then
        await asyncio.sleep(0)
    gate.set()
    vectors = await asyncio.gather(*waiting)
    assert sum(sizes) == 64
    assert len(sizes) <= 2  # what the worker had begun with, and all that came meanwhile
    np.testing.assert_allclose(np.stack(vectors), embedder.embed_queries(queries), atol=1e-6)


async def test_callers_that_are_ready_come_first(embedder, monkeypatch):
    """The worker is not woken by one caller while others of the same loop only have to be run."""
    events = []
    submit = type(embedder._session.backend).submit

    def recording(self, *args):
        events.append("submitted")
        return submit(self, *args)

    async def call(query):
        events.append("ready")
        return await embedder.aembed_query(query)

    monkeypatch.setattr(type(embedder._session.backend), "submit", recording)
    await asyncio.gather(*(call(f"query {n}") for n in range(5)))
    assert events == ["ready"] * 5 + ["submitted"] * 5


def test_threads_get_their_own_vectors(embedder):
    expected = embedder.embed_documents([f"text {n}" for n in range(40)])
    failures = []

    def call(first):
        got = embedder.embed_documents([f"text {n}" for n in range(first, first + 10)])
        if np.abs(got - expected[first : first + 10]).max() > 1e-6:
            failures.append(first)

    threads = [threading.Thread(target=call, args=(n % 30,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_out_of_memory_reruns_only_what_did_not_fit(folder, embedder, monkeypatch):
    run = TorchEngine.run

    def cramped(self, batch, **kwargs):
        if sum(map(len, batch)) > 60:
            raise EngineMemory(None, sum(map(len, batch)), "full")
        return run(self, batch, **kwargs)

    texts = [f"some text {n} " * (n % 4 + 1) for n in range(30)]
    expected = embedder.embed_documents(texts)
    monkeypatch.setattr(TorchEngine, "run", cramped)
    np.testing.assert_allclose(embedder.embed_documents(texts), expected, atol=1e-6)
    with pytest.raises(EngineMemoryError, match="input 1 with 81 tokens does not fit"):
        embedder.embed_documents(["a", " a" * 80])


def test_rows_that_overflow_are_recomputed_in_float32(checkpoints, monkeypatch):
    folder = str(checkpoints("embedding-0.6b", dtype=torch.bfloat16))
    run = TorchEngine.run

    def overflowing(self, batch, *, precise=False):
        rows = run(self, batch, precise=precise)
        if not precise:
            rows[0, 3] = np.inf
        return rows

    texts = ["importance of mills"]
    with Embedder(folder, dtype="bfloat16") as half, Embedder(folder, dtype="float32") as full:
        exact = full.embed_documents(texts)
        assert np.abs(half.embed_documents(texts) - exact).max() > 1e-5
        monkeypatch.setattr(TorchEngine, "run", overflowing)
        np.testing.assert_allclose(half.embed_documents(texts), exact, atol=1e-6)


def test_transformers_recomputes_in_float32_and_is_unchanged_by_it(checkpoints, monkeypatch):
    from quernstone.engines.transformers import TransformersEngine

    folder = str(checkpoints("embedding-0.6b", dtype=torch.bfloat16))
    run = TransformersEngine.run

    def overflowing(self, batch, *, precise=False):
        rows = run(self, batch, precise=precise)
        return rows if precise else np.full_like(rows, np.nan)

    texts = ["importance of mills and millers " * 9]
    with (
        Embedder(folder, dtype="bfloat16", engine="transformers") as half,
        Embedder(folder, dtype="float32", engine="transformers") as full,
    ):
        before = half.embed_documents(texts)
        with monkeypatch.context() as broken:
            broken.setattr(TransformersEngine, "run", overflowing)
            exact = half.embed_documents(texts)
        np.testing.assert_allclose(exact, full.embed_documents(texts), atol=1e-6)
        np.testing.assert_array_equal(half.embed_documents(texts), before)


def test_a_row_that_stays_non_finite_is_an_error(embedder, monkeypatch):
    def broken(self, batch, *, precise=False):
        return np.full((len(batch), self.width), np.nan, dtype=np.float32)

    monkeypatch.setattr(TorchEngine, "run", broken)
    with pytest.raises(NonFiniteError, match="input 0"):
        embedder.embed_documents(["a"])


def test_equal_configurations_share_a_model_and_close_apart(folder):
    one = Embedder(folder, dtype="float32", max_batch_tokens=77)
    two = Embedder(folder, dtype="float32", max_batch_tokens=77, dimensions=32, instruction="x")
    other = Embedder(folder, dtype="float32", max_batch_tokens=78)
    assert one._session.backend is two._session.backend
    assert one._session.backend is not other._session.backend
    one.close()
    one.close()  # closing twice is fine
    with pytest.raises(ClosedError, match="after `close"):
        one.embed_query("a")
    assert two.embed_query("a").shape == (32,)
    two.close()
    other.close()


def test_a_forgotten_embedder_gives_its_model_back(folder):
    forgotten = Embedder(folder, dtype="float32", max_batch_tokens=79)
    held = forgotten._session.backend
    del forgotten
    [runner] = held._runners
    runner.thread.join(10)
    assert not runner.thread.is_alive()


def test_fingerprint_tells_apart_what_differs(folder, embedder):
    with (
        Embedder(folder, dtype="float32", max_batch_tokens=50) as same,
        Embedder(folder, dtype="float32", dimensions=64) as cut,
        Embedder(folder, dtype="float32", instruction="other") as instructed,
        Embedder(folder, dtype="bfloat16") as half,
    ):
        assert same.fingerprint == embedder.fingerprint
        assert same.revision == embedder.revision
        assert same.revision in same.fingerprint
        others = {e.fingerprint for e in (embedder, cut, instructed, half)}
        assert len(others) == 4


def test_progress_goes_to_standard_error(embedder, capsys):
    embedder.embed_documents(TEXTS, progress=True)
    captured = capsys.readouterr()
    assert "embedding documents" in captured.err
    assert "6 of 6 (100%)" in captured.err
    assert captured.out == ""


def test_repr_says_what_runs(embedder, folder):
    assert repr(embedder) == (
        f"Embedder({folder!r}, dimensions=128, engine='torch', device='cpu', dtype='float32')"
    )

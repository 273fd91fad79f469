"""What `QuernstoneEmbeddings` promises beyond the standard suite."""

import asyncio
import inspect
import pickle
import time

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from pydantic import ValidationError

import quernstone.runtime.session
from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
)
from quernstone import Embedder, InputError, ModelLoadError, RemoteOptions

TEXTS = ["a compiler for C", "a hand mill\nfor  grain", "製粉機 🌾", "a compiler for C", ""]


@pytest.fixture
def runs(monkeypatch):
    """The sizes of the batches that any engine loaded from now on runs; `None` is a load."""
    seen = []
    load_engine = quernstone.runtime.session.load_engine

    def recording(*args):
        engine = load_engine(*args)
        seen.append(None)
        run = engine.run

        def run_and_record(batch, **options):
            seen.append(len(batch))
            return run(batch, **options)

        engine.run = run_and_record
        return engine

    monkeypatch.setattr(quernstone.runtime.session, "load_engine", recording)
    return seen


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
@pytest.mark.parametrize("settings", [{}, {"dimensions": 64}, {"instruction": "Find the tool"}])
async def test_vectors_are_those_of_the_core_bit_for_bit(engine, settings):
    embeddings = QuernstoneEmbeddings(model="tiny", engine=engine, **settings)
    with Embedder("tiny", engine=engine, **settings) as embedder:
        for text in TEXTS:
            expected = embedder.embed_query(text)
            assert embeddings.embed_query(text) == expected.tolist()
            assert await embeddings.aembed_query(text) == expected.tolist()
        expected = embedder.embed_documents(TEXTS)
        assert np.array_equal(np.float32(embeddings.embed_documents(TEXTS)), expected)
        assert embeddings.fingerprint == embedder.fingerprint


def test_every_setting_of_the_core_is_a_field_and_no_other():
    core = inspect.signature(Embedder).parameters
    fields = QuernstoneEmbeddings.model_fields
    assert set(fields) - {"show_progress"} == set(core)
    assert {name: fields[name].default for name in core} == {
        name: parameter.default for name, parameter in core.items()
    }


def test_drop_in_for_the_stock_class():
    assert QuernstoneEmbeddings(model_name="tiny") == QuernstoneEmbeddings(model="tiny")


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "tiny"},
        {"model": "tiny", "model_name": "tiny"},
        {"model": None},
        {"engine": "onnx"},
        {"dtype": "int4"},
        {"dimensions": 0},
        {"dimensions": "many"},
        {"max_length": 0},
        {"max_batch_tokens": -1},
        {"encode_kwargs": {"normalize_embeddings": True}},
    ],
)
def test_wrong_settings_are_refused_at_once(wrong):
    with pytest.raises(ValidationError, match=list(wrong)[-1]):
        QuernstoneEmbeddings(**wrong)


def test_settings_that_only_the_model_can_refuse_are_refused_at_first_use():
    with pytest.raises(ValueError, match=r"`dimensions` is 31; this model gives 32 to"):
        QuernstoneEmbeddings(model="tiny", dimensions=31).embed_query("q")
    with pytest.raises(ModelLoadError, match="no such model"):
        QuernstoneEmbeddings(model="no such model").embed_query("q")


def test_settings_may_change_after_use():
    embeddings = QuernstoneEmbeddings(model="tiny")
    whole = embeddings.embed_query("q")
    short = embeddings.model_copy(update={"dimensions": 32})
    assert len(short.embed_query("q")) == 32
    assert embeddings.embed_query("q") == whole
    embeddings.dimensions = 32
    assert embeddings.embed_query("q") == short.embed_query("q")
    with pytest.raises(ValidationError, match="dimensions"):
        embeddings.dimensions = -1


def test_one_model_in_the_process(runs):
    settings = {"model": "tiny", "max_batch_tokens": 1001}
    alive = [QuernstoneEmbeddings(**settings) for _ in range(5)]
    assert runs == [], "nothing is loaded before it is needed"
    alive += [pickle.loads(pickle.dumps(alive[0])), alive[0].model_copy(deep=True)]
    alive.append(QuernstoneEmbeddings(**settings, dimensions=32))
    for embeddings in alive:
        embeddings.embed_query("q")
    assert runs.count(None) == 1


async def test_concurrent_calls_share_batches(runs):
    embeddings = QuernstoneEmbeddings(model="tiny", max_batch_tokens=1002)
    texts = [f"query number {number}" for number in range(200)]
    vectors = await asyncio.gather(*map(embeddings.aembed_query, texts))
    batches = [size for size in runs if size]
    assert sum(batches) == 200
    assert len(batches) < 100
    alone = np.array([embeddings.embed_query(text) for text in texts])
    assert np.allclose(vectors, alone, atol=0.02)
    assert np.array_equal(np.argmax(alone @ np.transpose(vectors), axis=0), np.arange(200))


async def test_loading_does_not_block_the_event_loop(monkeypatch):
    class SlowEmbedder:
        def __init__(self, **_):
            time.sleep(0.3)

        async def aembed_query(self, _):
            return np.ones(2, np.float32)

    monkeypatch.setattr("langchain_quernstone.embeddings.Embedder", SlowEmbedder)
    embeddings = QuernstoneEmbeddings(model="slow")
    tasks = [asyncio.create_task(embeddings.aembed_query("q")) for _ in range(20)]
    turns = 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5
    assert [task.result() for task in tasks] == [[1.0, 1.0]] * 20


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
def test_first_call_is_like_the_second(engine):
    embeddings = QuernstoneEmbeddings(
        model="tiny", engine=engine, dtype="bfloat16", max_batch_tokens=1004
    )
    text = "a long text " * 100
    assert embeddings.embed_documents([text]) == embeddings.embed_documents([text])


def test_engine_options_reach_the_engine_and_are_not_shown():
    options = {"model_kwargs": {"attn_implementation": "eager"}}
    settings = {"model": "tiny", "engine": "sentence-transformers", "dtype": "float32"}
    embeddings = QuernstoneEmbeddings(**settings, engine_options=options)
    expected = QuernstoneEmbeddings(**settings).embed_query("q")
    assert np.allclose(embeddings.embed_query("q"), expected, atol=1e-5)
    with Embedder(**settings, engine_options=options) as core:
        assert core.info.attention == "eager"
        assert embeddings.fingerprint == core.fingerprint
    assert "eager" not in repr(embeddings)


SERVER = {"endpoint": "http://localhost:1", "api_key": "sk-secret"}


@pytest.mark.parametrize("options", [SERVER, RemoteOptions(**SERVER)], ids=["mapping", "class"])
@pytest.mark.parametrize(
    "adapter", [QuernstoneEmbeddings, QuernstoneReranker, QuernstoneCrossEncoder]
)
def test_a_key_is_pickled_and_not_shown(adapter, options):
    remote = adapter(model="m", engine="remote", engine_options=options)
    shown = f"{remote!r} {remote} {remote.model_dump()} {remote.model_dump_json()}"
    assert "engine='remote'" in shown
    assert "sk-secret" not in shown
    assert pickle.loads(pickle.dumps(remote)).engine_options == options
    assert remote.model_copy().engine_options == options


@pytest.mark.parametrize("wrong", [{"api_key": "sk-secret"}, {"engine_options": "sk-secret"}])
@pytest.mark.parametrize(
    "adapter", [QuernstoneEmbeddings, QuernstoneReranker, QuernstoneCrossEncoder]
)
def test_a_key_in_the_wrong_place_is_not_in_the_error(adapter, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))) as caught:
        adapter(model="m", **wrong)
    assert "sk-secret" not in str(caught.value)


def test_pickle_holds_no_weights():
    embeddings = QuernstoneEmbeddings(model="tiny")
    embeddings.embed_query("q")
    assert len(pickle.dumps(embeddings)) < 2000


def test_repr_shows_what_was_set():
    embeddings = QuernstoneEmbeddings(model="tiny", dimensions=64)
    assert repr(embeddings) == "QuernstoneEmbeddings(model='tiny', dimensions=64)"


@pytest.mark.parametrize("wrong", ["one string", None, 7])
def test_documents_that_are_no_list_are_refused(wrong):
    with pytest.raises(InputError, match=r"`texts` is .*, expected a list of strings"):
        QuernstoneEmbeddings(model="tiny").embed_documents(wrong)


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", ["nested"]])
async def test_the_wrong_text_is_named(wrong):
    embeddings = QuernstoneEmbeddings(model="tiny")
    with pytest.raises(InputError) as caught:
        embeddings.embed_documents(["fine", wrong, "fine"])
    assert caught.value.index == 1
    with pytest.raises(InputError):
        embeddings.embed_query(wrong)
    with pytest.raises(InputError):
        await embeddings.aembed_query(wrong)


def test_too_long_is_an_error_when_asked():
    embeddings = QuernstoneEmbeddings(model="tiny", max_length=16, truncate=False)
    with pytest.raises(InputError, match=r"input 1: the text has \d+ tokens, the limit is 1[56]"):
        embeddings.embed_documents(["short", "long " * 100])


def test_no_documents_and_ten_thousand():
    embeddings = QuernstoneEmbeddings(model="tiny")
    assert embeddings.embed_documents([]) == []
    many = [f"document {number % 100}" for number in range(10_000)]
    vectors = np.array(embeddings.embed_documents(many))
    assert vectors.shape[0] == 10_000
    assert np.allclose(vectors[:100], vectors[-100:], atol=0.02)


def test_cache_backed_by_files(runs, tmp_path):
    store = LocalFileStore(tmp_path)  # refuses keys with any other characters than names of files

    def cached(**settings):
        embeddings = QuernstoneEmbeddings(model="tiny", max_batch_tokens=1003, **settings)
        return CacheBackedEmbeddings.from_bytes_store(
            embeddings, store, namespace=embeddings.cache_namespace, key_encoder="sha256"
        )

    first, again, short = cached(), cached(), cached(dimensions=32)
    vectors = first.embed_documents(TEXTS)
    computed = len(runs)
    assert again.embed_documents(TEXTS) == vectors
    assert len(runs) == computed
    assert len(short.embed_documents(TEXTS)[0]) == 32

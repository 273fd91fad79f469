"""What `QuernstoneEmbedding` promises beyond the contract suite."""

import asyncio
import inspect
import logging
import pickle
import time

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank
from quernstone import Embedder, InputError, RemoteOptions

TEXTS = ["a compiler for C", "a hand mill\nfor  grain", "製粉機 🌾", "a compiler for C", ""]


@pytest.mark.parametrize("engine", ["torch", "transformers", "sentence-transformers"])
@pytest.mark.parametrize("settings", [{}, {"dimensions": 64}, {"instruction": "Find the tool"}])
async def test_vectors_are_those_of_the_core_bit_for_bit(engine, settings):
    model = QuernstoneEmbedding(model_name="tiny", engine=engine, **settings)
    with Embedder("tiny", engine=engine, **settings) as embedder:
        for text in TEXTS:
            expected = embedder.embed_query(text).tolist()
            assert model.get_query_embedding(text) == expected
            assert await model.aget_query_embedding(text) == expected
            expected = embedder.embed_documents([text])[0].tolist()
            assert model.get_text_embedding(text) == expected
            assert await model.aget_text_embedding(text) == expected
        expected = embedder.embed_documents(TEXTS).tolist()
        assert model.get_text_embedding_batch(TEXTS) == expected
        assert await model.aget_text_embedding_batch(TEXTS) == expected
        assert model.fingerprint == embedder.fingerprint


def test_every_setting_of_the_core_is_a_field():
    core = dict(inspect.signature(Embedder).parameters)
    fields = dict(QuernstoneEmbedding.model_fields)
    core["model_name"] = core.pop("model")
    assert set(fields) - set(BaseEmbedding.model_fields) == set(core) - {"model_name"} | {
        "show_progress"
    }
    for name, parameter in core.items():
        assert fields[name].default == parameter.default
    assert QuernstoneEmbedding()._settings().keys() == inspect.signature(Embedder).parameters.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle_name": "tiny"},
        {"engine": "onnx"},
        {"dtype": "int4"},
        {"dimensions": 0},
        {"max_length": 0},
        {"embed_batch_size": 0},
        {"embed_batch_size": 2049},
        {"query_instruction": "x"},
    ],
)
def test_wrong_settings_are_refused_at_once(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QuernstoneEmbedding(**{"model_name": "tiny", **wrong})


def test_embeddings_cache_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="a query would get a text's vector; pass `cache="):
        QuernstoneEmbedding(model_name="tiny", embeddings_cache=SimpleKVStore())
    model = QuernstoneEmbedding(model_name="tiny")
    with pytest.raises(ValueError, match="embeddings_cache"):
        model.embeddings_cache = SimpleKVStore()


def test_dictionary_holds_what_vectors_depend_on_and_nothing_else():
    settings = {"model_name": "tiny", "revision": "main", "dimensions": 64, "instruction": "Find"}
    model = QuernstoneEmbedding(**settings, device="cpu", embed_batch_size=7, num_workers=3)
    assert model.to_dict() == {
        **settings,
        "adapter": None,
        "dtype": "auto",
        "max_length": 8192,
        "truncate": True,
        "class_name": "QuernstoneEmbedding",
    }
    loaded = QuernstoneEmbedding.from_dict(model.to_dict())
    assert loaded.instruction == "Find"
    pickled = pickle.loads(pickle.dumps(model))
    assert (pickled.device, pickled.embed_batch_size, pickled.num_workers) == ("cpu", 7, 3)


def test_engine_options_reach_the_engine_and_are_not_shown():
    options = {"model_kwargs": {"attn_implementation": "eager"}}
    settings = {"engine": "sentence-transformers", "dtype": "float32", "engine_options": options}
    model = QuernstoneEmbedding(model_name="tiny", **settings)
    with Embedder("tiny", **settings) as core:
        assert core.info.attention == "eager"
        assert model.get_query_embedding("q") == core.embed_query("q").tolist()
        assert model.fingerprint == core.fingerprint
    assert "eager" not in f"{model!r} {model.to_dict()} {model.to_payload()}"


SERVER = {"endpoint": "http://localhost:1", "api_key": "sk-secret"}


@pytest.mark.parametrize("options", [SERVER, RemoteOptions(**SERVER)], ids=["mapping", "class"])
@pytest.mark.parametrize("adapter", [QuernstoneEmbedding, QuernstoneRerank])
def test_a_key_is_pickled_and_not_shown(adapter, options):
    model = adapter(engine="remote", engine_options=options)
    shown = [repr(model), str(model), model.to_dict(), model.to_json(), model.model_dump()]
    if isinstance(model, QuernstoneEmbedding):
        shown.append(model.to_payload())
    assert "engine='remote'" in repr(model)
    assert "sk-secret" not in str(shown)
    assert pickle.loads(pickle.dumps(model)).engine_options == options


@pytest.mark.parametrize("wrong", [{"api_key": "sk-secret"}, {"engine_options": "sk-secret"}])
@pytest.mark.parametrize("adapter", [QuernstoneEmbedding, QuernstoneRerank])
def test_a_key_in_the_wrong_place_is_not_in_the_error(adapter, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))) as caught:
        adapter(**wrong)
    assert "sk-secret" not in str(caught.value)


def test_pickle_holds_no_weights_and_warns_of_nothing(caplog):
    model = QuernstoneEmbedding(model_name="tiny")
    expected = model.get_query_embedding("q")
    with caplog.at_level(logging.WARNING):
        data = pickle.dumps(model)
    assert len(data) < 3000
    assert not [record for record in caplog.records if "_core" in record.message]
    assert pickle.loads(data).get_query_embedding("q") == expected


def test_settings_may_change_after_use():
    model = QuernstoneEmbedding(model_name="tiny")
    whole = model.get_query_embedding("q")
    model.dimensions = 32
    assert len(model.get_query_embedding("q")) == 32
    assert model.model_copy(update={"dimensions": None}).get_query_embedding("q") == whole


def test_pipeline_cache_hits_until_the_vectors_change():
    cache = IngestionCache()
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(TEXTS[:4])]

    def vectors(**settings):
        model = QuernstoneEmbedding(model_name="tiny", **settings)
        pipeline = IngestionPipeline(transformations=[model], cache=cache)
        return [node.embedding for node in pipeline.run(nodes=[n.model_copy() for n in nodes])]

    def entries():
        return len(cache.cache.get_all(collection=cache.collection))

    first = vectors()
    assert entries() == 1
    assert vectors(embed_batch_size=1, device="cpu", engine="torch") == first
    assert entries() == 1
    assert len(vectors(dimensions=32)[0]) == 32
    assert entries() == 2


async def test_in_an_index():
    model = QuernstoneEmbedding(model_name="tiny")
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(TEXTS[:3])]
    retriever = VectorStoreIndex(nodes, embed_model=model).as_retriever(similarity_top_k=3)
    found = retriever.retrieve("製粉機")
    query = np.array(model.get_query_embedding("製粉機"))
    for node in found:
        expected = query @ model.get_text_embedding(node.text)
        assert node.score == pytest.approx(expected, abs=0.01)
    again = await retriever.aretrieve("製粉機")
    assert [node.node_id for node in again] == [node.node_id for node in found]


def test_events_describe_the_model_without_secrets():
    model = QuernstoneEmbedding(model_name="tiny", dimensions=64, instruction="Find")
    assert model.to_payload() == {
        "class_name": "QuernstoneEmbedding",
        "model_name": "tiny",
        "embed_batch_size": 512,
        "dimensions": 64,
        "instruction": "Find",
    }


async def test_the_wrong_text_is_named():
    model = QuernstoneEmbedding(model_name="tiny")
    with pytest.raises(InputError) as caught:
        model.get_text_embedding_batch(["fine", None])
    assert caught.value.index == 1
    with pytest.raises(InputError):
        await model.aget_query_embedding(7)


def test_ten_thousand_texts():
    texts = [f"text {number % 100}" for number in range(10_000)]
    vectors = np.array(QuernstoneEmbedding(model_name="tiny").get_text_embedding_batch(texts))
    assert len(vectors) == 10_000
    assert np.allclose(vectors[:100], vectors[-100:], atol=0.02)


async def test_loading_does_not_block_the_event_loop(monkeypatch):
    class SlowEmbedder:
        def __init__(self, **_):
            time.sleep(0.3)

        async def aembed_query(self, _):
            return np.ones(2, np.float32)

    monkeypatch.setattr("llama_index.embeddings.quernstone.base.Embedder", SlowEmbedder)
    task = asyncio.create_task(QuernstoneEmbedding(model_name="slow").aget_query_embedding("q"))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5
    assert task.result() == [1.0, 1.0]


async def test_one_text_is_not_a_list_of_texts():
    model = QuernstoneEmbedding(model_name="tiny")
    with pytest.raises(InputError, match="`texts` is a str, expected a list"):
        model.get_text_embedding_batch("one string")
    with pytest.raises(InputError, match="`texts` is a str, expected a list"):
        await model.aget_text_embedding_batch("one string")

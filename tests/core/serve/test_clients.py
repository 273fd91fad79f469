"""The clients that people have, against a real server: all of them get the exact numbers."""

from dataclasses import replace

import cohere
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from tests.core.serve.conftest import KEY, running

from quernstone import ConfigError, Embedder, InputTooLongError, PairTemplate, Reranker
from quernstone.serve.models import Models
from quernstone.serve.options import ServeOptions

TEXTS = ["a hand mill grinds grain", "", "it rains", "a hand mill grinds grain"]
QUERY = "grinding grain"


def test_openai(url, embedder):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64
    np.testing.assert_array_equal(
        np.float32([each.embedding for each in answer.data]), embedder.embed_documents(TEXTS)
    )
    assert answer.usage.prompt_tokens > len(TEXTS)
    numbers = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    np.testing.assert_array_equal(
        np.float32([each.embedding for each in numbers.data]), embedder.embed_documents(TEXTS)
    )
    short = client.embeddings.create(
        model="tiny",
        input=QUERY,
        dimensions=64,
        extra_body={"input_type": "query", "instruction": "Find mills"},
    )
    with Embedder("tiny", dtype="float32", dimensions=64) as small:
        expected = small.embed_query(QUERY, "Find mills")
    np.testing.assert_array_equal(np.float32(short.data[0].embedding), expected)
    assert [model.id for model in client.models.list()] == ["tiny", "tiny"]


@pytest.mark.parametrize(
    "fields", [{"input_type": "query"}, {"input_type": "query", "instruction": ""}]
)
def test_a_query_gets_the_instruction_of_the_model(url, embedder, fields):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.embeddings.create(model="tiny", input=[QUERY], extra_body=fields)
    expected = embedder.embed_query(QUERY, fields.get("instruction"))
    np.testing.assert_array_equal(np.float32(answer.data[0].embedding), expected)


def test_cohere(url, reranker):
    client = cohere.ClientV2("none", base_url=url)
    answer = client.rerank(model="tiny", query=QUERY, documents=TEXTS, top_n=3)
    expected = reranker.rerank(QUERY, TEXTS, top_n=3)
    assert [(each.index, each.relevance_score) for each in answer.results] == [
        (each.index, each.score) for each in expected
    ]
    first = cohere.Client("none", base_url=url)
    answer = first.rerank(model="tiny", query=QUERY, documents=TEXTS, return_documents=True)
    assert answer.results[0].document.text == TEXTS[answer.results[0].index]


def test_langchain_openai(url, embedder):
    settings = {"model": "tiny", "base_url": f"{url}/v1", "api_key": "none"}
    embeddings = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    np.testing.assert_array_equal(
        np.float32(embeddings.embed_documents(TEXTS)), embedder.embed_documents(TEXTS)
    )


def test_llama_index(url, embedder, reranker):
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    model = OpenAILikeEmbedding(model_name="tiny", api_base=f"{url}/v1", api_key="none")
    np.testing.assert_array_equal(
        np.float32(model.get_text_embedding("it rains")), embedder.embed_documents(["it rains"])[0]
    )
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS if text]
    rerank = CohereRerank(model="tiny", api_key="none", base_url=url, top_n=2)
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    expected = reranker.rerank(QUERY, [text for text in TEXTS if text], top_n=2)
    assert [each.score for each in found] == pytest.approx([each.score for each in expected])


@pytest.mark.parametrize("address_in", ["model", "model with engine and path", "options"])
def test_our_own_client_is_as_if_the_model_were_here(url, embedder, address_in):
    long = "grain " * 3000
    texts = [*TEXTS, long]
    arguments = {
        "model": {"model": url},
        "model with engine and path": {"model": f"{url}/v1", "engine": "remote"},
        "options": {
            "model": "tiny",
            "engine": "remote",
            "engine_options": {"endpoint": url, "dialect": "quernstone"},
        },
    }[address_in]
    with Embedder("tiny", dtype="float32") as local, Embedder(**arguments) as remote:
        for name in ("model", "revision", "digest", "fingerprint", "instruction", "max_length"):
            assert getattr(remote, name) == getattr(local, name)
        for instruction in (None, "", "Find mills"):
            np.testing.assert_array_equal(
                remote.embed_queries(texts, instruction), local.embed_queries(texts, instruction)
            )
        np.testing.assert_array_equal(remote.embed_documents(texts), local.embed_documents(texts))
        assert remote.usage == local.usage
        assert remote.usage.truncated == 4


@pytest.mark.parametrize("template", ["card", "eval"])
def test_our_own_reranker_is_as_if_the_model_were_here(url, template):
    documents = [*TEXTS, "grain " * 3000]
    with (
        Reranker("tiny", dtype="float32", template=template) as local,
        Reranker(url, template=template) as remote,
    ):
        assert remote.fingerprint == local.fingerprint
        for instruction in (None, "Find mills"):
            expected = local.rerank(QUERY, documents, None, instruction)
            assert remote.rerank(QUERY, documents, None, instruction) == expected
        queries = [QUERY, "rain"]
        assert remote.rerank_many(queries, documents) == local.rerank_many(queries, documents)
        assert remote.usage == local.usage


OWN = PairTemplate(prefix="{query}: ", suffix="<|im_end|>", positive="true", temperature=5.0)


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_a_server_keeps_the_template_of_its_model(score):
    template = replace(OWN, score=score)

    def load():
        return Models(None, Reranker("tiny", dtype="float32", template=template), ServeOptions())

    with running(load=load) as address, Reranker("tiny", dtype="float32", template=template) as own:
        with Reranker(address) as remote, Reranker(address, template=template) as named:
            assert remote.template == named.template == template
            assert remote.fingerprint == own.fingerprint
            for each in (remote, named):
                assert each.rerank(QUERY, TEXTS) == own.rerank(QUERY, TEXTS)
            with pytest.raises(ConfigError, match="no place for an instruction"):
                remote.rerank(QUERY, TEXTS, instruction="Find mills")
        for other in (PairTemplate(prefix="{query}. "), "eval"):  # they score `yes` and `no`
            with pytest.raises(ConfigError, match="differ from those that `tiny` was"):
                Reranker(address, template=other)


def test_limits_of_the_client_hold(url):
    text = "grain " * 200
    with (
        Embedder(url, max_length=64) as remote,
        Embedder("tiny", dtype="float32", max_length=64) as local,
    ):
        np.testing.assert_array_equal(remote.embed_documents([text]), local.embed_documents([text]))
    errors = []
    for model in (url, "tiny"):
        with Embedder(model, max_length=64, truncate=False) as embedder:
            with pytest.raises(InputTooLongError) as caught:
                embedder.embed_documents(["short", "also short", text])
            errors.append(caught.value.args[:3])
    assert errors[0] == errors[1]


def test_a_server_of_another_model_or_protocol_is_refused(url, monkeypatch):
    options = {"endpoint": url, "dialect": "quernstone"}
    with pytest.raises(ConfigError, match="no model 'qwen'; it serves tiny"):
        Embedder("qwen", engine="remote", engine_options=options)
    monkeypatch.setattr("quernstone.engines.remote.native.NATIVE_PROTOCOL", 3)
    with pytest.raises(ConfigError, match="speaks version 2 of the protocol, and this client"):
        Embedder(url)


def test_keys(guarded, embedder):
    options = {"api_key": KEY}
    with Embedder(guarded, engine_options=options) as remote:
        np.testing.assert_array_equal(
            remote.embed_documents(TEXTS), embedder.embed_documents(TEXTS)
        )


def test_a_server_without_a_reranker():
    with running(rerank=None) as address:
        with pytest.raises(ConfigError, match="nothing for the task `rerank`"):
            Reranker(address)
        with Embedder(address) as remote:
            assert remote.dimensions == 256

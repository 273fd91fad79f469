"""Every dialect: what it asks, and that each result comes back for its own input."""

import base64
import struct

import numpy as np
import pytest
from tests.support.embedding_server import Fault, score, vector

from quernstone import ConfigError
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, render_pair
from quernstone.types import TextInput

EMBEDDING = ["openai", "vllm", "tei", "infinity", "sglang"]
SERVER_TEMPLATE = ["vllm", "tei", "infinity", "sglang", "cohere", "jina"]
SENDS_INSTRUCTION = ["vllm", "sglang"]
CLIENT_TEMPLATE = ["vllm", "sglang"]


def pairs(query, documents, instruction=DEFAULT_INSTRUCTION, template="card"):
    return [TextInput(document, instruction, query, template) for document in documents]


def halves(pair):
    """The rendered prompt as the server joins it."""
    whole = render_pair(pair.query, pair.text, pair.instruction, pair.template)
    head, colon, rest = whole.partition("<Document>:")
    return head + colon, rest


@pytest.mark.parametrize("dialect", EMBEDDING)
def test_embeddings_belong_to_their_texts(dialect, serve, connect):
    stub = serve(dialect)
    backend = connect(stub)
    texts = [f"text {number}" for number in range(70)] + ["text 3", ""]
    rows = backend.submit([TextInput(text) for text in texts]).result(10)
    assert backend.width == 8
    assert rows.dtype == np.float32
    assert rows.tolist() == [vector(text) for text in texts]


@pytest.mark.parametrize("dialect", EMBEDDING)
def test_queries_are_rendered_and_documents_are_not(dialect, serve, connect):
    backend = connect(serve(dialect))
    rows = backend.submit([TextInput("why?"), TextInput("why?", "Find it")]).result(10)
    assert rows.tolist() == [vector("why?"), vector("Instruct: Find it\nQuery:why?")]


@pytest.mark.parametrize("dialect", SERVER_TEMPLATE)
def test_scores_belong_to_their_pairs_when_the_server_renders(dialect, serve, connect):
    backend = connect(serve(dialect), "rerank", rendered_by="server")
    documents = [f"document {number}" for number in range(70)]
    rows = backend.submit(pairs("q", documents)).result(10)
    query = f"{DEFAULT_INSTRUCTION}|q" if dialect in SENDS_INSTRUCTION else "q"
    assert backend.width == 1
    assert rows[:, 0] == pytest.approx([score(query, document) for document in documents])


@pytest.mark.parametrize("dialect", CLIENT_TEMPLATE)
@pytest.mark.parametrize("template", ["card", "eval"])
def test_scores_belong_to_their_pairs_when_we_render(dialect, template, serve, connect):
    backend = connect(serve(dialect), "rerank", rendered_by="client")
    items = pairs("q", [f"document {number}" for number in range(70)], "Find it", template)
    rows = backend.submit(items).result(10)
    assert rows[:, 0] == pytest.approx([score(*halves(item)) for item in items], abs=1e-7)


@pytest.mark.parametrize("dialect", SENDS_INSTRUCTION)
def test_an_instruction_is_sent(dialect, serve, connect):
    backend = connect(serve(dialect), "rerank", rendered_by="server")
    rows = backend.submit(pairs("q", ["d"], "Find it")).result(10)
    assert rows[0, 0] == pytest.approx(score("Find it|q", "d"))


@pytest.mark.parametrize("dialect", [d for d in SERVER_TEMPLATE if d not in SENDS_INSTRUCTION])
def test_an_instruction_is_never_dropped(dialect, serve, connect):
    stub = serve(dialect)
    backend = connect(stub, "rerank", rendered_by="server")
    asked = len(stub.received)
    with pytest.raises(ConfigError, match=f"the dialect {dialect} has no field for an instr"):
        backend.submit(pairs("q", ["d"], "Find it")).result(10)
    assert len(stub.received) == asked


@pytest.mark.parametrize("dialect", [*CLIENT_TEMPLATE, "jina"])
def test_pairs_of_several_queries_come_back_in_order(dialect, serve, connect):
    renderer = "server" if dialect == "jina" else "client"
    backend = connect(serve(dialect), "rerank", rendered_by=renderer)
    items = [TextInput(f"d{n}", DEFAULT_INSTRUCTION, f"q{n % 7}") for n in range(100)]
    rows = backend.submit(items).result(10)
    wanted = [
        score(item.query, item.text) if renderer == "server" else score(*halves(item))
        for item in items
    ]
    assert rows[:, 0] == pytest.approx(wanted, abs=1e-7)


def test_vllm_gets_several_queries_in_one_request(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="server")
    items = [TextInput(f"d{n}", "Find", f"q{n}") for n in range(32)]
    rows = backend.submit(items).result(10)
    last = stub.received[-1]
    assert last.path == "/score"
    assert len(last.body["text_1"]) == 32
    assert last.body["instruction"] == "Find"
    assert rows[:, 0] == pytest.approx([score(f"Find|q{n}", f"d{n}") for n in range(32)])


def test_sglang_scores_next_tokens_of_one_query_at_a_time(serve, connect):
    stub = serve("sglang")
    backend = connect(stub, "rerank", rendered_by="client")
    asked = len(stub.received)
    backend.submit([TextInput("d", "i", f"q{n}") for n in range(3)]).result(10)
    assert [request.path for request in stub.received[asked:]] == ["/v1/score"] * 3


def test_vllm_is_asked_for_base64_and_told_where_to_cut(serve, connect):
    stub = serve("vllm", max_model_len=300)
    backend = connect(stub, max_length=512)
    assert backend.info.max_length == 300
    backend.submit([TextInput("a")]).result(10)
    assert stub.received[-1].body == {
        "model": "stub-model",
        "input": ["a"],
        "encoding_format": "base64",
        "embed_dtype": "float32",
        "endianness": "little",
        "truncate_prompt_tokens": 300,
    }
    connect(stub, max_length=200, truncate=False).submit([TextInput("a")]).result(10)
    assert "truncate_prompt_tokens" not in stub.received[-1].body


def test_vllm_classifies_what_we_render(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="client")
    backend.submit(pairs("q", ["d"])).result(10)
    assert stub.received[-1].path == "/classify"
    assert set(stub.received[-1].body) == {"model", "input"}


def test_vllm_says_which_models_it_has(serve, connect):
    with pytest.raises(ConfigError, match="no model 'Qwen/Q'; it serves served-name"):
        connect(serve("vllm", model="served-name"), model="Qwen/Q")


def test_tei_says_what_it_runs_and_gets_32_inputs_at_most(serve, connect):
    stub = serve("tei")
    backend = connect(stub, max_length=8192)
    assert backend.info.dtype == "float16"
    assert backend.info.revision == "abc123"
    assert backend.info.max_length == 4096
    backend.submit([TextInput(str(n)) for n in range(100)]).result(10)
    sizes = [len(request.body["inputs"]) for request in stub.received[1:]]
    assert sorted(sizes) == [25, 25, 25, 25]
    assert stub.received[-1].body["truncate"] is True


@pytest.mark.parametrize("dialect", ["vllm", "tei"])
def test_a_gateway_that_hides_the_servers_facts_is_no_obstacle(dialect, serve, connect):
    stub = serve(dialect)
    stub.answer_get = lambda path: None
    backend = connect(stub)
    assert backend.info.max_length is None
    assert backend.submit([TextInput("a")]).result(10).tolist() == [vector("a")]


@pytest.mark.parametrize("change", [lambda a: {"models": []}, lambda a: [], lambda a: None])
def test_facts_of_another_shape_are_left_alone(change, serve, connect):
    stub = serve("vllm")
    stub.answer_get = lambda path: change(None) if change(None) is not None else "text"
    assert connect(stub).info.max_length is None


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [("", "/v1/embeddings"), ("/v1", "/v1/embeddings"), ("/proxy", "/proxy/v1/embeddings")],
)
def test_the_endpoint_may_end_in_v1_and_may_have_a_prefix(endpoint, path, serve, connect):
    stub = serve("openai")
    connect(stub, endpoint=stub.url + endpoint)
    assert stub.received[0].path == path


@pytest.mark.parametrize(
    ("dialect", "task", "settings", "message"),
    [
        ("cohere", "embed", {}, "the dialect cohere has no embeddings"),
        (
            "openai",
            "rerank",
            {},
            "has no reranking; use one of quernstone, vllm, tei, infinity, sglang",
        ),
        (
            "vllm",
            "rerank",
            {},
            r"say who renders.*`rendered_by=\"client\"`.* or .*\"server\"",
        ),
        ("tei", "rerank", {}, r"say who renders the prompt; use `rendered_by=\"server\"`"),
        ("infinity", "rerank", {"rendered_by": "client"}, "'client' is not possible; use .*server"),
        ("infinity", "embed", {"truncate": False}, "cut long texts without an error"),
        ("jina", "rerank", {"rendered_by": "server", "truncate": False}, "`truncate=False` is not"),
    ],
)
def test_what_a_dialect_cannot_do_is_said_at_the_start(
    dialect, task, settings, message, serve, connect
):
    stub = serve(dialect)
    with pytest.raises(ConfigError, match=message):
        connect(stub, task, **settings)
    assert stub.received == []


def test_a_server_that_renders_has_one_template(serve, connect):
    backend = connect(serve("vllm"), "rerank", rendered_by="server")
    with pytest.raises(ConfigError, match=r"'eval' needs .*client"):
        backend.submit(pairs("q", ["d"], template="eval")).result(10)


@pytest.mark.parametrize("as_base64", [True, False])
def test_numbers_come_as_base64_or_as_a_list_whatever_was_asked(as_base64, serve, connect):
    stub = serve("openai")
    backend = connect(stub)
    numbers = [0.25] * 8
    packed = base64.b64encode(struct.pack("<8f", *numbers)).decode()
    data = [{"index": 0, "embedding": packed if as_base64 else numbers}]
    stub.fail_next(Fault(body={"data": data}))
    assert backend.submit([TextInput("a")]).result(10).tolist() == [numbers]


def test_a_server_that_sorts_is_understood(serve, connect):
    stub = serve("openai")
    backend = connect(stub)
    stub.fail_next(Fault(change=lambda a: {**a, "data": a["data"][::-1]}))
    rows = backend.submit([TextInput(text) for text in "abc"]).result(10)
    assert rows.tolist() == [vector(text) for text in "abc"]

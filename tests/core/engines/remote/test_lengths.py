"""`max_length`, kept with the server's own tokenizer, of which a token is a word here."""

import pytest
from tests.support.embedding_server import Fault, vector

from quernstone import InputTooLongError, RemoteAnswerError
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, render_pair
from quernstone.types import TextInput


def words(count, word="word"):
    return " ".join(f"{word}{number}" for number in range(count))


def pair(document, query="q", instruction=DEFAULT_INSTRUCTION):
    return TextInput(document, instruction, query)


def frame(query="q", instruction=DEFAULT_INSTRUCTION):
    """Tokens of the prompt without its document."""
    return len(render_pair(query, "", instruction).split())


def paths(stub):
    return [request.path for request in stub.received]


def prompts(stub):
    return stub.received[-1].body["input"]


@pytest.mark.parametrize("rendered_by", ["client", "server"])
def test_a_short_pair_costs_no_request(rendered_by, serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by=rendered_by, max_length=512)
    backend.submit([pair("x" * (512 - 81 - len(DEFAULT_INSTRUCTION)))]).result(10)
    assert "/tokenize" not in paths(stub)


def test_a_long_document_is_cut_before_it_is_sent(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="client", max_length=frame() + 30)
    backend.submit([pair(words(500)), pair("short"), pair(words(31)), pair(words(30))]).result(10)
    wanted = [words(30), "short", words(30), words(30)]
    assert prompts(stub) == [render_pair("q", text, DEFAULT_INSTRUCTION) for text in wanted]


def test_the_server_that_renders_gets_the_same_document(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="server", max_length=frame() + 30)
    backend.submit([pair(words(500)), pair("short")]).result(10)
    assert stub.received[-1].body["documents"] == [words(30), "short"]


def test_of_an_endless_document_only_a_beginning_is_tokenised(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="client", max_length=frame() + 30)
    backend.submit([pair(words(20_000)), pair("a" * 100_000)]).result(10)
    sent = [len(one.body["prompt"]) for one in stub.received if one.path == "/tokenize"]
    # one word of many letters has few tokens, and so the whole is looked at
    assert sorted(sent) == [len(render_pair("q", "", DEFAULT_INSTRUCTION)) - 1, 372, 372, 100_001]
    assert 372 == (30 + 1) * 12
    assert prompts(stub)[1] == render_pair("q", "a" * 100_000, DEFAULT_INSTRUCTION)


def test_the_frame_of_a_query_is_counted_once(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, "rerank", rendered_by="client", max_length=frame() + 30)
    for _ in range(3):
        backend.submit([pair(words(60), query) for query in ("one", "two") * 20]).result(10)
    framed = [
        one
        for one in stub.received
        if one.path == "/tokenize" and one.body["prompt"].startswith("<|im_start|>")
    ]
    assert len(framed) == 2


@pytest.mark.parametrize("rendered_by", ["client", "server"])
def test_a_long_pair_is_refused_on_request(rendered_by, serve, connect):
    stub = serve("vllm")
    limit = frame() + 30
    backend = connect(stub, "rerank", rendered_by=rendered_by, max_length=limit, truncate=False)
    pairs = [pair("a"), pair(words(30)), pair(words(31))]
    with pytest.raises(InputTooLongError) as caught:
        backend.submit(pairs, 40).result(10)
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (42, 31, 30)
    assert len(backend.submit(pairs[:2]).result(10)) == 2


def test_a_query_is_never_cut(serve, connect):
    backend = connect(serve("vllm"), "rerank", rendered_by="client", max_length=100)
    with pytest.raises(
        InputTooLongError, match="input 3: the query with its instruction"
    ) as caught:
        backend.submit([pair("d", words(120))], 3).result(10)
    assert caught.value.limit == 100


def test_a_long_text_to_embed_is_cut_by_the_server(serve, connect):
    stub = serve("vllm")
    backend = connect(stub, max_length=20)
    assert backend.submit([TextInput(words(60))]).result(10).tolist() == [vector(words(60))]
    assert "/tokenize" not in paths(stub)


def test_a_long_text_to_embed_is_refused_on_request(serve, connect):
    backend = connect(serve("vllm"), max_length=20, truncate=False)
    with pytest.raises(InputTooLongError) as caught:
        backend.submit([TextInput(words(19)), TextInput(words(20))]).result(10)
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (1, 20, 19)
    with pytest.raises(InputTooLongError):
        backend.submit([TextInput(words(19), "Find it")]).result(10)


def test_without_the_servers_tokenizer_its_own_limit_remains(serve, connect):
    stub = serve("vllm")
    stub.rule = lambda path, body: Fault(404) if path == "/tokenize" else None
    backend = connect(stub, "rerank", rendered_by="client", max_length=100)
    backend.submit([pair(words(500))]).result(10)
    assert prompts(stub) == [render_pair("q", words(500), DEFAULT_INSTRUCTION)]


def test_a_tokenizer_that_answers_something_else_is_an_error(serve, connect):
    stub = serve("vllm")
    stub.rule = lambda path, body: Fault(body={"count": 3}) if path == "/tokenize" else None
    backend = connect(stub, "rerank", rendered_by="client", max_length=100)
    with pytest.raises(RemoteAnswerError, match="there is no `tokens`"):
        backend.submit([pair(words(500))]).result(10)

"""A server that misbehaves: retried where that can help, else one clear error."""

import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from tests.support.embedding_server import Fault, StubServer, score, vector

from quernstone import ConfigError, InputError, InputTooLongError, NonFiniteError
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.engines.remote import transport
from quernstone.errors import RemoteAnswerError, RemoteRequestError, RemoteUnavailableError
from quernstone.types import TextInput

TEXTS = ["a", "b", "c"]


def submit(backend, texts=TEXTS, offset=0):
    return backend.submit([TextInput(text) for text in texts], offset)


def is_right(rows, texts=TEXTS):
    return rows.tolist() == [vector(text) for text in texts]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429),
        Fault(429, {"Retry-After": "0"}),
        Fault(500, body={"error": {"message": "a worker died"}}),
        Fault(502, body=b"<html>bad gateway</html>"),
        Fault(503),
        Fault(504),
        Fault(reset=True),
        Fault(cut=20, reset=True),
        Fault(cut=20),
        Fault(cut=0),
        Fault(body=b'{"data": [{"index": 0, "embed'),
        Fault(body=b""),
        Fault(wait=1.0),
        Fault(drip=0.05),
    ],
    ids=lambda fault: str(fault)[6:60],
)
def test_a_passing_fault_is_tried_again(fault, serve, connect):
    stub = serve()
    backend = connect(stub, timeout=0.4 if fault.wait or fault.drip else 5)
    stub.fail_next(fault, fault)
    assert is_right(submit(backend).result(10))
    assert len(stub.received) == 4  # the probe, two failures, the success


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(429, body={"error": "overloaded"}), "answered 429 Too Many Requests: overloaded"),
        (Fault(500, body={"detail": "it broke"}), "answered 500 Internal Server Error: it broke"),
        (Fault(503, body={"message": "loading"}), "answered 503 Service Unavailable: loading"),
        (Fault(reset=True), "failed: "),
        (Fault(cut=20), "failed: peer closed connection without sending complete message"),
        (Fault(wait=1.0), r"did not answer within 0\.\d s"),
        (Fault(drip=0.05), r"did not answer within 0\.\d s"),
        (Fault(body=b'{"data": ['), "answered with invalid or incomplete JSON"),
    ],
    ids=lambda value: str(value)[6:60],
)
def test_a_lasting_fault_is_one_error_after_all_attempts(fault, message, serve, connect):
    stub = serve()
    backend = connect(stub, timeout=0.3 if fault.wait or fault.drip else 5, max_retries=2)
    stub.rule = lambda path, body: fault
    with pytest.raises(RemoteUnavailableError, match=message) as caught:
        submit(backend).result(10)
    assert caught.value.url == f"{stub.url}/v1/embeddings"
    assert "gave up after 3 attempts" in str(caught.value)
    assert caught.value.status == (fault.status if fault.status != 200 or fault.body else None)
    assert len(stub.received) == 4


def test_a_server_that_is_not_there_is_an_error_of_the_start(connect):
    with StubServer() as gone:
        pass
    with pytest.raises(RemoteUnavailableError, match="failed: All connection attempts failed"):
        connect(gone, max_retries=1)


def test_the_wait_that_the_server_asks_for_is_kept(serve, connect):
    stub = serve()
    backend = connect(stub)
    stub.fail_next(Fault(429, {"Retry-After": "1"}))
    start = time.monotonic()
    assert is_right(submit(backend).result(10))
    assert time.monotonic() - start >= 1.0


def in_seconds(seconds, **form):
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), **form)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: "1.5", 1.5, 1.5),
        (lambda: "-3", 0, 0),
        (lambda: "86400", 60, 60),
        (lambda: in_seconds(30), 25, 30),
        (lambda: in_seconds(30).replace("+0000", "-0000"), 25, 30),
        (lambda: in_seconds(999, usegmt=True), 60, 60),
        (lambda: in_seconds(-999), 0, 0),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header, least, most):
    response = transport.httpx.Response(429, headers={"Retry-After": header()})
    assert least <= transport._asked_wait(response) <= most


@pytest.mark.parametrize("header", ["", "soon", "nan", "nan-ish, 99"])
def test_a_retry_after_that_says_nothing_is_none(header):
    response = transport.httpx.Response(429, headers={"Retry-After": header})
    assert transport._asked_wait(response) is None


def test_backoff_doubles_up_to_a_cap_and_is_random(monkeypatch):
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.5)
    for attempt, full in enumerate([0.5, 1, 2, 4, 8, 8, 8], start=1):
        waits = [transport._backoff(attempt) for _ in range(200)]
        assert full / 2 <= min(waits) < max(waits) <= full


def test_a_wait_beyond_the_deadline_is_not_waited(serve, connect):
    stub = serve()
    backend = connect(stub, deadline=5)
    stub.fail_next(Fault(503, {"Retry-After": "30"}))
    with pytest.raises(RemoteUnavailableError, match=r"next retry \(in 30.0 s\) would exceed"):
        submit(backend).result(20)  # less than the server asks to wait
    assert len(stub.received) == 2  # the probe, one attempt


def test_the_deadline_ends_the_attempts(serve, connect):
    stub = serve()
    backend = connect(stub, timeout=0.4, deadline=1.0, max_retries=100)
    stub.rule = lambda path, body: Fault(wait=5)
    with pytest.raises(RemoteUnavailableError, match="did not answer"):
        submit(backend).result(10)
    assert 2 <= len(stub.received) - 1 <= 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401, body={"error": {"message": "no key"}}), "401 Unauthorized: no key; give a key"),
        (Fault(403, body={"detail": ["forbidden"]}), r'403 Forbidden: \["forbidden"\]; give a key'),
        (Fault(404, body={"message": "no such model"}), "no such model; is this the right dialect"),
        (Fault(409, body={"detail": [{"msg": "odd", "input": "x"}]}), r"409 Conflict: odd$"),
        (Fault(307, {"Location": "http://elsewhere"}), "redirects are not followed"),
        (Fault(424, body={"error": "inference failed"}), "424 Failed Dependency: inference failed"),
    ],
    ids=lambda value: str(value)[6:40],
)
def test_a_refusal_is_not_tried_again(fault, message, serve, connect):
    stub = serve()
    backend = connect(stub)
    stub.rule = lambda path, body: fault
    with pytest.raises(RemoteRequestError, match=message) as caught:
        submit(backend).result(10)
    assert caught.value.status == fault.status
    assert len(stub.received) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_input_that_the_server_refuses_is_found(status, serve, connect):
    stub = serve()
    backend = connect(stub)
    refusal = Fault(status, body={"error": "`inputs` cannot be empty", "error_type": "Empty"})
    stub.rule = lambda path, body: refusal if "" in body["input"] else None
    with pytest.raises(InputError, match=f"input 137: .*{status}.*cannot be empty") as caught:
        submit(backend, [*map(str, range(37)), "", "x"], offset=100).result(10)
    assert caught.value.index == 137


def test_a_request_that_is_too_large_as_a_whole_is_sent_in_parts(serve, connect):
    stub = serve()
    backend = connect(stub)
    too_many = Fault(413, body={"error": "batch size 40 > maximum allowed batch size 10"})
    stub.rule = lambda path, body: too_many if len(body["input"]) > 10 else None
    texts = [f"text {n}" for n in range(40)]
    assert is_right(submit(backend, texts).result(10), texts)


@pytest.mark.parametrize(
    "words",
    [
        # vLLM 0.32
        "This model's maximum context length is 512 tokens. However, your prompt contains at "
        "least 513 input tokens, which exceeds this limit even without any output tokens. Please "
        "reduce the length of the input prompt.",
        # OpenAI
        "This model's maximum context length is 512 tokens, however you requested 513 tokens (513 "
        "in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
        # TEI
        "Input validation error: `inputs` must have less than 512 tokens. Given: 513",
        # SGLang
        "The input (513 tokens) is longer than the model's context length (512 tokens).",
    ],
    ids=["vllm", "openai", "tei", "sglang"],
)
def test_too_long_texts_are_told_from_other_refusals(words, serve, connect):
    stub = serve()
    backend = connect(stub, truncate=False)
    fault = Fault(400, body={"error": {"message": words}})
    stub.rule = lambda path, body: fault if "long" in body["input"] else None
    with pytest.raises(InputTooLongError, match=r"input 6: the text.* has 513 tokens") as caught:
        submit(backend, ["a", "long", "c"], offset=5).result(10)
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (6, 513, 512)


def drop(answer):
    return {**answer, "data": answer["data"][:-1]}


def add(answer):
    return {**answer, "data": [*answer["data"], {**answer["data"][0], "index": 3}]}


def repeat(answer):
    return {**answer, "data": [answer["data"][0], answer["data"][0], answer["data"][2]]}


def shift(answer):
    return {**answer, "data": [{**item, "index": item["index"] + 1} for item in answer["data"]]}


def without_index(answer):
    return {**answer, "data": [{"embedding": item["embedding"]} for item in answer["data"]]}


def with_numbers(numbers, place=1):
    def change(answer):
        data = list(answer["data"])
        data[place] = {**data[place], "embedding": numbers}
        return {**answer, "data": data}

    return change


@pytest.mark.parametrize(
    ("change", "message", "index"),
    [
        (drop, "sent 2 results for 3 inputs", None),
        (add, "sent 4 results for 3 inputs", None),
        (repeat, r"the indices \[0, 0, 2\], and none for input 1", None),
        (shift, r"the indices \[1, 2, 3\], and none for input 0", None),
        (without_index, "there is no `index`; is this the right dialect", None),
        (lambda a: {"embeddings": []}, "there is no `data`", None),
        (lambda a: {"data": {}}, "its `data` is dict, expected a list", None),
        (lambda a: "hello", "there is no `data`", None),
        (with_numbers([1.0] * 7), "input 11: .* sent 7 numbers for it and 8", 11),
        (with_numbers([]), "input 11: .* sent 0 numbers for it and 8", 11),
        (with_numbers(["x"] * 8), "input 11: .* sent something that is not a number", 11),
        (with_numbers([[1.0] * 8] * 3), "input 11: .* sent a table where a row", 11),
        (with_numbers("AAAA"), "not base64 of 32-bit floats", None),
        (with_numbers("!!!!"), "not base64 of 32-bit floats", None),
    ],
)
def test_a_wrong_answer_is_one_error_and_no_result(change, message, index, serve, connect):
    stub = serve()
    backend = connect(stub)
    stub.fail_next(Fault(change=change))
    with pytest.raises(RemoteAnswerError, match=message) as caught:
        submit(backend, offset=10).result(10)
    assert caught.value.index == index
    assert len(stub.received) == 2  # nothing is gained by asking again


@pytest.mark.parametrize("number", [float("nan"), float("inf"), None, 1e39])
def test_a_number_that_is_not_finite_names_its_input(number, serve, connect):
    stub = serve()
    backend = connect(stub)
    stub.fail_next(Fault(change=with_numbers([0.5] * 7 + [number], place=2)))
    with pytest.raises(NonFiniteError, match=r"input 12: .*not finite.*bfloat16") as caught:
        submit(backend, offset=10).result(10)
    assert caught.value.index == 12


def test_a_dimension_that_changes_between_requests_is_noticed(serve, connect):
    stub = serve()
    backend = connect(stub)
    shorter = Fault(change=lambda a: {"data": [{"index": 0, "embedding": [1.0] * 4}]})
    stub.fail_next(shorter)
    with pytest.raises(RemoteAnswerError, match="sent 4 numbers for it and 8"):
        submit(backend, ["a"]).result(10)


def test_an_embedding_of_no_numbers_is_an_error_of_the_start(serve, connect):
    stub = serve()
    stub.fail_next(Fault(body={"data": [{"index": 0, "embedding": []}]}))
    with pytest.raises(RemoteAnswerError, match="sent 0 numbers"):
        connect(stub)


@pytest.mark.parametrize("raw", [3.2, -0.5])
def test_a_raw_score_is_no_probability(raw, serve, connect):
    stub = serve("jina")
    backend = connect(stub, "rerank", rendered_by="server")
    stub.fail_next(Fault(body={"results": [{"index": 0, "relevance_score": raw}]}))
    with pytest.raises(RemoteAnswerError, match=f"input 4: .*the score {raw}, which is not a prob"):
        backend.submit([TextInput("d", DEFAULT_INSTRUCTION, "q")], 4).result(10)


def test_a_model_with_more_classes_is_no_qwen3_reranker(serve, connect):
    stub = serve("vllm")
    stub.fail_next(Fault(body={"data": [{"index": 0, "probs": [0.2, 0.8]}]}))
    with pytest.raises(RemoteAnswerError, match="`probs` have more or less than"):
        connect(stub, "rerank", rendered_by="client")


def test_ranked_results_with_one_twice_are_refused(serve, connect):
    stub = serve("tei")
    backend = connect(stub, "rerank", rendered_by="server")
    stub.fail_next(Fault(change=lambda ranks: [ranks[0], ranks[0], *ranks[2:]]))
    pairs = [TextInput(text, DEFAULT_INSTRUCTION, "q") for text in TEXTS]
    with pytest.raises(RemoteAnswerError, match="and none for input"):
        backend.submit(pairs).result(10)
    wanted = [score("q", text) for text in TEXTS]
    assert backend.submit(pairs).result(10)[:, 0] == pytest.approx(wanted)


def test_after_a_fault_the_same_backend_goes_on(serve, connect):
    stub = serve()
    backend = connect(stub)
    stub.fail_next(Fault(403))
    with pytest.raises(RemoteRequestError):
        submit(backend).result(10)
    assert is_right(submit(backend).result(10))


def test_a_backend_without_options_is_refused():
    from quernstone.engines.remote.backend import RemoteBackend
    from quernstone.types import EngineConfig

    config = EngineConfig(task="embed", model="m", engine="remote")
    with pytest.raises(ConfigError, match="at least `endpoint`"):
        RemoteBackend(config)

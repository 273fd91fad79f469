"""Requests that are wrong, too large, too many or abandoned: named answers, and nothing else."""

import asyncio
import json
import select
import socket
import threading
import time
from contextlib import suppress

import httpx
import pytest
from tests.core.serve.conftest import KEY, running

from quernstone import Embedder, ModelLoadError
from quernstone.errors import EngineMemoryError
from quernstone.model import session_of
from quernstone.serve.models import Models
from quernstone.serve.options import ServeOptions

EMBED = "/v1/embeddings"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (EMBED, b"{", 400, "is not JSON"),
        (EMBED, b'{"input": "\xff"}', 400, "is not JSON"),
        (EMBED, b'{"input": "\\ud800"}', 400, "is not JSON"),
        (EMBED, b"", 400, "is not JSON"),
        (EMBED, b"[]", 422, "body"),
        (EMBED, {}, 422, "input: Field required"),
        (EMBED, {"input": 3}, 422, "input"),
        (EMBED, {"input": [3, 4]}, 422, "check_embedding_ctx_length=False"),
        (EMBED, {"input": [[3, 4]]}, 422, "check_embedding_ctx_length=False"),
        (EMBED, {"input": "a", "inputs": "b"}, 422, "inputs: Extra inputs"),
        (EMBED, {"input": "a", "dimensions": 7}, 422, "`dimensions` is 7"),
        (EMBED, {"input": "a", "model": "qwen"}, 404, "no model 'qwen'; this server has 'tiny'"),
        (EMBED, {"input": "a", "input_type": "document", "instruction": "b"}, 422, "documents get"),
        (EMBED, {"input": ["a", "g " * 5000], "truncate": False}, 422, "input 1: the text has"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 422, "top_n"),
        ("/rerank", {"query": "a", "documents": [{"title": "b"}]}, 422, "text"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"] * 3}, 422, "`text_1` has 2"),
        ("/quernstone/v1", {"protocol": 9, "task": "embed", "texts": []}, 422, "version 9"),
        ("/quernstone/v1", {"protocol": 2, "task": "rerank", "texts": []}, 422, "`query`"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_what_is_wrong_is_named(url, path, body, status, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(url + path, content=content)
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_empty_lists(url):
    assert httpx.post(url + EMBED, json={"input": []}).json()["data"] == []
    ranked = httpx.post(f"{url}/rerank", json={"query": "a", "documents": []})
    assert ranked.json()["results"] == []


def test_limits():
    with running(max_inputs=2, max_bytes=2000, max_tokens=50) as address:
        too_many = httpx.post(address + EMBED, json={"input": ["a"] * 3})
        assert (too_many.status_code, "has 3 inputs, the limit is 2" in too_many.text) == (
            413,
            True,
        )
        large = httpx.post(address + EMBED, json={"input": "a" * 3000})
        assert large.status_code == 413
        assert "the limit is 2000" in large.text
        parts = (b'{"input": "' + b"a" * 900 for _ in range(5))  # without a Content-Length
        assert httpx.post(address + EMBED, content=parts).status_code == 413
        tokens = httpx.post(address + EMBED, json={"input": "grain " * 100})
        assert tokens.status_code == 413
        assert "tokens, the limit is 50" in tokens.text
        assert httpx.post(address + EMBED, json={"input": "grain"}).status_code == 200


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic right-key", "right-key"])
def test_a_wrong_key_is_refused(guarded, header):
    headers = {"Authorization": header} if header else {}
    for path in (EMBED, "/rerank", "/metrics", "/v1/models", "/quernstone/v1", "/docs"):
        answer = httpx.post(guarded + path, json={"input": "a"}, headers=headers)
        assert answer.status_code == 401
        assert KEY not in answer.text
    assert httpx.get(f"{guarded}/health").status_code == 200


def test_web_pages_read_answers_only_if_they_may(url, guarded):
    headers = {"Origin": "https://app.example", "Authorization": f"Bearer {KEY}"}
    allowed = httpx.post(guarded + EMBED, json={"input": "a"}, headers=headers)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    other = httpx.post(url + EMBED, json={"input": "a"}, headers=headers)
    assert "access-control-allow-origin" not in other.headers


def test_it_is_ready_when_the_models_are_loaded():
    loading = threading.Event()

    def load():
        loading.wait()
        raise ModelLoadError("no such model")

    with running(load=load, wait=False) as address:
        assert httpx.get(f"{address}/health").status_code == 503
        early = httpx.post(address + EMBED, json={"input": "a"})
        assert (early.status_code, early.headers["Retry-After"]) == (503, "1")
        loading.set()
        while "failed" not in (answer := httpx.get(f"{address}/health")).text:
            time.sleep(0.01)
        assert answer.status_code == 503


def test_a_slow_body_is_given_up():
    with running(read_timeout=0.2, rerank=None) as address:
        with connect(address) as client:
            client.sendall(head("Content-Length: 99") + b"{")
            assert b" 408 " in client.recv(4096)
        assert httpx.post(address + EMBED, json={"input": "a"}).status_code == 200


async def test_work_for_a_client_that_hung_up_is_dropped(url):
    def running_requests():
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line[0] != "#"}

    texts = [f"{number} grain " * 500 for number in range(500)]
    before = running_requests()["quern_tokens_total"]
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url + EMBED, json={"input": texts}, timeout=0.6)
    while (now := await asyncio.to_thread(running_requests))["quern_waiting_tokens"]:
        await asyncio.sleep(0.02)
    assert now["quern_tokens_total"] == before
    assert now['quern_requests_total{path="/v1/embeddings",status="499"}'] == 1


def test_an_answer_that_takes_too_long():
    with running(timeout=0.3, rerank=None) as address:
        texts = [f"{number} grain " * 500 for number in range(500)]
        answer = httpx.post(address + EMBED, json={"input": texts}, timeout=30)
        assert answer.status_code == 504
        assert "no answer within 0.3 s" in answer.text
        # A batch that the model has begun ends first.
        while httpx.post(address + EMBED, json={"input": "a"}).status_code != 200:
            time.sleep(0.05)


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(size):
    return f"POST {EMBED} HTTP/1.1\r\nHost: x\r\n{size}\r\n\r\n".encode()


def test_a_client_that_hangs_up_in_the_middle_of_its_body(url):
    with connect(url) as client:
        client.sendall(head("Content-Length: 99") + b'{"input": ')
    hung_up = f'path="{EMBED}",status="499"'
    while hung_up not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.01)
    assert httpx.post(url + EMBED, json={"input": "a"}).status_code == 200


@pytest.mark.parametrize("size", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_a_body_of_100_megabytes_is_refused_before_it_is_read(url, size):
    with connect(url) as client:
        client.sendall(head(size))
        sent, part = 0, b"a" * 1_000_000
        with suppress(ConnectionError):  # the server has answered and closes
            while sent < 100_000_000 and not select.select([client], [], [], 0)[0]:
                client.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                sent += len(part)
        assert b" 413 " in client.recv(4096)
        assert sent < 40_000_000
    assert httpx.post(url + EMBED, json={"input": "a"}).status_code == 200


def test_a_client_that_reads_slowly_delays_nobody(url):
    body = json.dumps({"input": ["grain"] * 2000}).encode()  # an answer of 6 MB
    with connect(url) as slow:
        slow.sendall(head(f"Content-Length: {len(body)}\r\nConnection: close") + body)
        for _ in range(20):
            assert httpx.post(url + EMBED, json={"input": "a"}).status_code == 200
        received = b"".join(iter(lambda: slow.recv(100_000), b""))
    answer = json.loads(received.partition(b"\r\n\r\n")[2])
    assert len(answer["data"]) == 2000


def test_a_model_that_runs_out_of_memory(monkeypatch):
    embedder = Embedder("tiny", dtype="float32")
    engine = session_of(embedder).backend._runners[0].engine
    compute = engine.run

    def run(batch, **kwargs):
        if sum(map(len, batch)) > 100:
            raise EngineMemoryError(detail="none left")
        return compute(batch, **kwargs)

    monkeypatch.setattr(engine, "run", run)
    with running(load=lambda: Models(embedder, None, ServeOptions())) as address:
        # Many inputs are computed in smaller batches.
        assert httpx.post(address + EMBED, json={"input": ["grain"] * 500}).status_code == 200
        answer = httpx.post(address + EMBED, json={"input": ["a", "grain " * 300, "b"]})
        assert answer.status_code == 507, answer.text
        assert (answer.json()["error"]["index"], "none left" in answer.text) == (1, True)
        assert httpx.post(address + EMBED, json={"input": "a"}).status_code == 200

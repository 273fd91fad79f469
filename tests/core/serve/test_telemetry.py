"""Metrics and logs: the numbers of what was computed, and no text and no key."""

import json
import time

import httpx
import pytest
from tests.core.serve.conftest import KEY, running

EMBED = "/v1/embeddings"


def values_of(address):
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.fixture(scope="module")
def metrics():
    """The metrics after an embedding, a ranking, a refusal and a text that was cut."""
    with running() as address:
        texts = ["grain", "a mill", "rain " * 3000]
        embedded = httpx.post(address + EMBED, json={"input": texts}).json()
        ranked = httpx.post(f"{address}/rerank", json={"query": "a", "documents": ["b", "c"]})
        httpx.post(address + EMBED, json={"input": 3})
        httpx.get(f"{address}/nowhere")
        tokens = embedded["usage"]["total_tokens"] + ranked.json()["usage"]["total_tokens"]
        yield values_of(address) | {"expected_tokens": tokens}


def test_requests_and_latencies_by_path(metrics):
    count = 'quern_requests_total{{path="{}",status="{}"}}'
    assert metrics[count.format(EMBED, 200)] == 1
    assert metrics[count.format(EMBED, 422)] == 1
    assert metrics[count.format("/rerank", 200)] == 1
    assert metrics[count.format("other", 404)] == 1
    assert metrics[f'quern_request_seconds_count{{path="{EMBED}"}}'] == 2
    assert metrics['quern_request_seconds_bucket{le="+Inf",path="/rerank"}'] == 1


def test_tokens_and_truncations(metrics):
    assert metrics["quern_tokens_total"] == metrics["expected_tokens"]
    assert metrics["quern_truncated_inputs_total"] == 1
    assert (metrics["quern_request_inputs_count"], metrics["quern_request_inputs_sum"]) == (2, 5)


def test_batches_and_their_queue(metrics):
    assert metrics["quern_batch_inputs_sum"] == 5
    assert metrics["quern_batch_inputs_count"] >= 2
    assert metrics["quern_batch_tokens_count"] == metrics["quern_batch_inputs_count"]
    assert 2048 < metrics["quern_batch_tokens_sum"] <= metrics["expected_tokens"]
    assert metrics["quern_queue_seconds_count"] == 2
    assert 0 < metrics["quern_queue_seconds_sum"] < 60
    assert metrics["quern_waiting_tokens"] == 0
    assert metrics["quern_tokens_per_second"] > 0


def test_no_text_and_no_key_is_logged(guarded, caplog):
    caplog.set_level("INFO", logger="quernstone.serve")
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(guarded + EMBED, json={"input": "a secret text"}, headers=headers)
    while not caplog.messages:  # written after the answer
        time.sleep(0.01)
    line = json.loads(caplog.messages[-1])
    assert (line["request"], line["status"], line["inputs"]) == (
        answer.headers["x-request-id"],
        200,
        1,
    )
    assert "secret" not in caplog.text
    assert KEY not in caplog.text

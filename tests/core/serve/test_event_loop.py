"""The event loop never waits for the work of a large request."""

import asyncio
from contextlib import suppress

import httpx
import pytest

from quernstone.engines.remote.answers import NATIVE_PROTOCOL
from quernstone.runtime.session import Session
from quernstone.runtime.worker import Worker
from quernstone.serve import answers, models, requests

TEXTS = [f"{number} grain" for number in range(600)]
LARGE = {
    "/v1/embeddings": {"input": TEXTS, "dimensions": 64, "truncate": False},
    "/rerank": {"query": "mills", "documents": TEXTS, "truncate": False},
    "/score": {"text_1": "mills", "text_2": TEXTS},
    "/quernstone/v1": {
        "protocol": NATIVE_PROTOCOL,
        "task": "embed",
        "texts": TEXTS,
        "max_length": 100,
    },
}


@pytest.mark.parametrize("path", LARGE)
def test_large_requests_are_computed_in_threads(url, monkeypatch, path):
    calls = []

    def watched(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            with suppress(RuntimeError):  # there is no loop in this thread
                asyncio.get_running_loop()
                calls.append((name, "on the loop"))
            calls.append((name, "called"))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)
        return name, "called"

    expected = {
        watched(Session, "encode"),
        watched(Worker, "submit"),
        watched(requests, "_dump"),
    }
    if path != "/score":  # with the server's own settings
        expected.add(watched(models, "variant_of"))
    if path == "/v1/embeddings":
        expected.add(watched(answers, "finish_rows"))
    answer = httpx.post(url + path, json=LARGE[path], timeout=60)
    assert answer.status_code == 200, answer.text
    assert set(calls) == expected

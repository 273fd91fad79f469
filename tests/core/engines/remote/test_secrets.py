"""A key shows nowhere: not in what is printed, logged, raised or pickled."""

import logging
import pickle
import traceback

import pytest
from tests.support.embedding_server import Fault, StubServer

from quernstone import QuernstoneError, RemoteError
from quernstone.engines.remote.options import KEY_VARIABLE
from quernstone.types import TextInput

KEY = "sk-4hQz0secret"
USER, PASSWORD = "reader-9Ty", "pw-7Lmv"
PAIR = "cmVhZGVyLTlUeTpwdy03TG12"
"""Both in base64, as they travel."""


def failures(connect, *secrets):
    """Every way to fail, with a server that repeats what it was sent."""
    echo = " ".join(secrets)
    faults = [
        Fault(401, body={"error": {"message": f"Incorrect API key provided: {echo}"}}),
        Fault(403, body=f"<html>{echo}</html>".encode()),
        Fault(404, body={"detail": [{"input": echo, "msg": echo}]}),
        Fault(400, body={"message": f"bad {echo}"}),
        Fault(503, body={"error": f"{echo} has no quota"}),
        Fault(302, {"Location": "http://elsewhere"}, body={"moved": echo}),
        Fault(body=f"{echo} is no JSON".encode()),
        Fault(body={"data": [{"index": 0, "embedding": [echo] * 8}]}),
        Fault(body={"data": [{"index": echo, "embedding": echo}]}),
        Fault(401, body={"error": "x" * 490 + echo}),  # where a message is cut
        Fault(body=("x" * 70 + echo).encode()),
        Fault(reset=True),
        Fault(cut=5),
        Fault(wait=1.0),
    ]
    yield lambda stub: connect(stub, model="wrong", **stub.credentials)
    for fault in faults:

        def run(stub, fault=fault):
            backend = connect(stub, timeout=0.3, max_retries=1, **stub.credentials)
            stub.rule = lambda path, body: fault
            backend.submit([TextInput("a")]).result(10)

        yield run

    def refused(stub):
        with StubServer() as gone:
            pass
        connect(gone, max_retries=0, **stub.credentials | {"endpoint": stub.address(gone.url)})

    yield refused


@pytest.mark.parametrize("how", ["option", "environment", "address"])
def test_nothing_printed_logged_raised_or_pickled_holds_a_credential(
    how, serve, connect, monkeypatch, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    seen = []
    if how == "environment":
        monkeypatch.setenv(KEY_VARIABLE, KEY)
    secrets = [USER, PASSWORD, PAIR] if how == "address" else [KEY]
    for run in failures(connect, *secrets):
        stub = serve("vllm")
        stub.address = lambda url: url
        stub.credentials = {"api_key": KEY} if how == "option" else {}
        if how == "address":
            stub.address = lambda url: url.replace("//", f"//{USER}:{PASSWORD}@")
            stub.credentials = {"endpoint": stub.address(stub.url)}
        with pytest.raises(QuernstoneError) as caught:
            run(stub)
        error = caught.value
        seen += traceback.format_exception(error)
        seen += [repr(error), str(vars(error))]
        seen.append(pickle.dumps(error).decode("latin1"))
        if isinstance(error, RemoteError):
            assert error.url.startswith("http://127.0.0.1:")
    seen += [record.getMessage() + str(vars(record)) for record in caplog.records]
    seen += capfd.readouterr()
    everything = "\n".join(seen)
    assert "/v1/embeddings" in everything
    assert "HTTP Request: POST" in everything  # httpx's own log is among it
    for secret in secrets:
        assert everything.count(secret[:8]) == 0


def test_the_key_reaches_the_server(serve, connect, monkeypatch):
    stub = serve(key=KEY)
    connect(stub, api_key=KEY)
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")
    connect(stub)
    monkeypatch.setenv(KEY_VARIABLE, "another")
    connect(stub, api_key=KEY)  # what is said here counts more
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(RemoteError, match=r"401 Unauthorized.*give a key as `api_key` or in QUERN"):
        connect(stub)


def test_no_other_key_of_the_machine_is_sent(serve, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    stub = serve()
    connect(stub)
    assert "Authorization" not in stub.received[0].headers


def test_a_password_in_the_address_reaches_the_server_and_no_other_place(serve, connect):
    stub = serve()
    backend = connect(stub, endpoint=stub.url.replace("//", f"//{USER}:{PASSWORD}@"))
    assert stub.received[0].headers["Authorization"] == f"Basic {PAIR}"
    assert PASSWORD not in repr(backend.info)

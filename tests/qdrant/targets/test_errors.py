"""What the clients raise, and what is made of it."""

import datetime
import email.utils
import sqlite3
import time

import grpc
import httpx
import pytest
from google.protobuf.message import DecodeError, EncodeError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from quernstone_qdrant.errors import (
    LimitError,
    RefusedError,
    TargetError,
    TooLargeError,
    TransientError,
)
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.targets.errors import CLIENT_ERRORS, classify


class Rpc(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


def http(status, content=b"{}", headers=()):
    return UnexpectedResponse(status, "reason", content, httpx.Headers(dict(headers)))


def in_seconds(seconds):
    now = datetime.datetime.now(datetime.timezone.utc)
    return email.utils.format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True)


CODE = grpc.StatusCode
LARGER = b"JSON payload (40000000 bytes) is larger than allowed (limit: 33554432 bytes)."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (http(429), TransientError),
        (http(500), TransientError),
        (http(503), TransientError),
        (http(408), TransientError),
        (http(413), TooLargeError),
        (http(400, LARGER), TooLargeError),
        (http(400), RefusedError),
        (http(400, b'Limit exceeded 60 > 50 for "upsert limit"'), LimitError),
        (http(400, b"Exact search disabled!"), LimitError),
        (http(429, b"request larger than rate limiter capacity"), LimitError),
        (Rpc(CODE.RESOURCE_EXHAUSTED, "request larger than rate limiter capacity"), LimitError),
        (Rpc(CODE.INVALID_ARGUMENT, 'Limit exceeded 3 > 1.5 for "oversampling"'), LimitError),
        (http(422), RefusedError),
        (http(400, b"Max payload storage size limit of 1MB reached!"), TargetError),
        (http(401), TargetError),
        (http(404), TargetError),
        (http(501), TargetError),
        (ResponseHandlingException(httpx.ReadTimeout("slow")), TransientError),
        (ResponseHandlingException(httpx.ConnectError("refused")), TransientError),
        (ResponseHandlingException(httpx.RemoteProtocolError("dropped")), TransientError),
        (ResponseHandlingException(httpx.UnsupportedProtocol("ftp")), TargetError),
        (ResponseHandlingException(ValueError("not JSON")), TargetError),
        (ResourceExhaustedResponse("busy", 3), TransientError),
        (QdrantException("Retry-After header value is not a valid integer"), TransientError),
        (Rpc(CODE.UNAVAILABLE, "gone"), TransientError),
        (Rpc(CODE.DEADLINE_EXCEEDED, "slow"), TransientError),
        (Rpc(CODE.RESOURCE_EXHAUSTED, "rate limit"), TransientError),
        (Rpc(CODE.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)"), TooLargeError),
        (
            Rpc(CODE.OUT_OF_RANGE, "Error, decoded message length too large: found 9, limit 4"),
            TooLargeError,
        ),
        (Rpc(CODE.INVALID_ARGUMENT, "bad id"), RefusedError),
        (Rpc(CODE.INVALID_ARGUMENT, "Max points count limit of 9 reached!"), TargetError),
        (Rpc(CODE.INTERNAL, "panicked"), TransientError),
        (Rpc(CODE.INTERNAL, "Exception serializing request!"), RefusedError),
        (Rpc(CODE.INTERNAL, "failed to decode Protobuf message: recursion limit"), RefusedError),
        (Rpc(CODE.INTERNAL, "Exception deserializing response!"), TargetError),
        (Rpc(CODE.UNAUTHENTICATED, "no key"), TargetError),
        (Rpc(CODE.NOT_FOUND, None), TargetError),
        (grpc.RpcError("bare"), TransientError),
        (sqlite3.OperationalError("database or disk is full"), TargetError),
        (OSError("no space left"), TargetError),
        (RuntimeError("closed"), TargetError),
        (KeyError("Qdrant/bm25"), TargetError),
        (IndexError("list index out of range"), TargetError),
        (ValueError("wrong size"), RefusedError),
        (TypeError("not a number"), RefusedError),
        (OverflowError("not 64 bits"), RefusedError),
        (RecursionError("too deep"), RefusedError),
        (DecodeError("Exceeded upb_DecodeOptions_MaxDepth"), RefusedError),
        (EncodeError("too deep"), RefusedError),
    ],
)
def test_each_error_has_one_meaning(error, kind):
    assert isinstance(error, CLIENT_ERRORS)
    found = classify(error, "writing failed")
    assert type(found) is kind
    assert str(found).startswith("writing failed: ")


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (ResourceExhaustedResponse("busy", 3), 3),
        (http(429, headers={"retry-after": "2.5"}), 2.5),
        (http(503, headers={"retry-after": in_seconds(-60)}), 0),
    ],
)
def test_the_delay_that_a_server_asks_for(error, delay):
    assert classify(error, "x").delay == delay


def test_a_server_may_name_the_time_to_come_back():
    error = http(503, headers={"retry-after": in_seconds(3600)})
    assert 3000 < classify(error, "x").delay <= 3600


@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}])
def test_no_delay(headers):
    assert classify(http(503, headers=headers), "x").delay is None


class Flaky:
    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_retry_ends_with_success_with_another_error_or_in_time():
    retry = Retry(30)
    assert retry.call(Flaky(TransientError("a", 0), TransientError("b", 0))) == "done"
    assert retry.retries == 2
    final = Flaky(TransientError("a", 0), TargetError("no"), TransientError("never"))
    with pytest.raises(TargetError, match=r"^no$"):
        retry.call(final)
    assert final.calls == 2
    with pytest.raises(TransientError, match=r"^a$"):
        Retry(0).call(Flaky(TransientError("a", 0)))


def test_a_delay_longer_than_the_patience_is_cut_to_it():
    late = Flaky(TransientError("come back later", 60))
    assert Retry(0.2).call(late) == "done"
    assert late.calls == 2
    never = Flaky(*[TransientError("come back later", 60)] * 9)
    expected = r"gave up after 2 attempts in 0 s: the limit is 0.2 s, and .* asks to wait 60 s more"
    with pytest.raises(TransientError, match=expected):
        Retry(0.2).call(never)
    assert never.calls == 2


def test_a_request_that_outlasts_the_patience_is_not_repeated_and_says_so():
    def slow():
        time.sleep(0.02)
        raise TransientError("busy")

    expected = r"^busy \(gave up after 1 attempt in 0 s: the limit is 0.01 s\)$"
    with pytest.raises(TransientError, match=expected):
        Retry(0.01).call(slow)


def test_a_stopped_retry_does_not_wait():
    retry = Retry(600)
    retry.stop()
    with pytest.raises(TransientError):
        retry.call(Flaky(TransientError("busy", 500)))


def test_a_response_that_is_nested_too_deeply_names_the_way_out():
    error = classify(Rpc(CODE.INTERNAL, "Exception deserializing response!"), "failed")
    assert "nested deeper than gRPC can return (about 30 levels): use REST" in str(error)

"""What the clients raise, classified once: try again, send less, or stop."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from quernstone_qdrant.errors import TargetError, TooLargeError, TransientError

CLIENT_ERRORS = (
    ApiException,  # REST
    QdrantException,  # both: status 429 with Retry-After
    grpc.RpcError,
    sqlite3.Error,  # the embedded client's file
    OSError,
    ValueError,
    RuntimeError,
)
"""Everything that `qdrant_client` raises when a request fails."""

_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP."""
_PASSING_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,  # what is status 500 over HTTP
        grpc.StatusCode.UNKNOWN,  # what proxies in between make of an answer that is not gRPC
    }
)
_TOO_LARGE = ("larger than allowed", "larger than max", "message length too large")
"""Qdrant's REST server; the gRPC library; the gRPC server's library (tonic)."""
_NEVER_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Of httpx's transport errors, those that say that the request itself is wrong."""


def classify(error: Exception, what: str) -> TargetError:
    """Make an error of ours of what a client raised.

    Args:
        error: One of `CLIENT_ERRORS`.
        what: What failed, at the start of the message.

    Returns:
        A `TransientError`, a `TooLargeError`, or a plain `TargetError`, which is final.
    """
    if isinstance(error, ResourceExhaustedResponse):
        return TransientError(f"{what}: {_text(error)}", float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _http(error, what)
    if isinstance(error, ResponseHandlingException):
        source = error.source
        passing = isinstance(source, httpx.TransportError) and not isinstance(source, _NEVER_SENT)
        return (TransientError if passing else TargetError)(f"{what}: {_text(source)}")
    if isinstance(error, grpc.RpcError):
        return _grpc(error, what)
    if isinstance(error, QdrantException):  # `Retry-After` holds a date, which the client rejects
        return TransientError(f"{what}: {_text(error)}")
    return TargetError(f"{what}: {_text(error)}")


def _http(error: UnexpectedResponse, what: str) -> TargetError:
    content = (error.content or b"").decode("utf-8", "replace").strip()
    message = f"{what}: status {error.status_code}: {content or error.reason_phrase}"
    if error.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE or _is_too_large(content):
        return TooLargeError(message)
    if error.status_code in _PASSING_STATUS:
        return TransientError(message, _retry_after(error.headers))
    return TargetError(message)


def _grpc(error: grpc.RpcError, what: str) -> TargetError:
    # what is raised is also a `grpc.Call`, which has these; the base class has neither
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or _text(error)
    message = f"{what}: {code.name}: {details}"
    if _is_too_large(details):
        return TooLargeError(message)
    return TransientError(message) if code in _PASSING_CODES else TargetError(message)


def _is_too_large(text: str) -> bool:
    return any(sign in text.lower() for sign in _TOO_LARGE)


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds of the header `Retry-After`, which holds seconds or a date."""
    value = (headers or {}).get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    now = datetime.now(then.tzinfo or timezone.utc)
    return max(0.0, (then.replace(tzinfo=then.tzinfo or timezone.utc) - now).total_seconds())


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Classify the exceptions of the clients: retry, send less, or give up."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import grpc
import httpx
from google.protobuf.message import Error as ProtobufError  # type: ignore[import-untyped]
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from quernstone_qdrant.errors import (
    LimitError,
    RefusedError,
    TargetError,
    TooLargeError,
    TransientError,
)
from quernstone_qdrant.targets.strict_mode import Refused, refused_by

CLIENT_ERRORS = (
    ApiException,  # REST
    QdrantException,  # REST and gRPC: status 429 with Retry-After
    grpc.RpcError,
    sqlite3.Error,  # the embedded client's file
    OSError,
    ProtobufError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
    OverflowError,
)
"""All exceptions that `qdrant_client` raises when a request fails."""

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of temporary failures."""
_TRANSIENT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,  # corresponds to HTTP status 500
        grpc.StatusCode.UNKNOWN,  # reported when a proxy answers with something other than gRPC
    }
)
"""gRPC status codes of temporary failures."""
_TOO_LARGE = ("larger than allowed", "larger than max", "message length too large")
"""Phrases in the messages of Qdrant's REST server, the gRPC client and the gRPC server (tonic)."""
_REFUSED_STATUS = frozenset({400, 422})
"""HTTP status codes of requests whose content is refused."""
_NOT_ENCODED = (ProtobufError, TypeError, ValueError, RecursionError, OverflowError)
"""Exceptions of a client that cannot encode a request."""
_NOT_DECODED = re.compile(r"exception (de)?serializing|failed to decode protobuf", re.IGNORECASE)
"""Part of a message about a request or a response that protobuf cannot hold: it is nested too
deeply."""
_NEVER_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Transport errors of httpx that mean the request itself is invalid."""


def classify(error: Exception, failure: str) -> TargetError:
    """Convert an exception of a client to a `TargetError`.

    Args:
        error: One of `CLIENT_ERRORS`.
        failure: Start of the message: what failed.

    Returns:
        A `TransientError`, a `TooLargeError`, a `LimitError`, a `RefusedError`, or a plain
        `TargetError`, which is final.
    """
    if isinstance(error, ResourceExhaustedResponse):
        return TransientError(f"{failure}: {_text(error)}", float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _http(error, failure)
    if isinstance(error, ResponseHandlingException):
        source = error.source
        transient = isinstance(source, httpx.TransportError) and not isinstance(source, _NEVER_SENT)
        return (TransientError if transient else TargetError)(f"{failure}: {_text(source)}")
    if isinstance(error, grpc.RpcError):
        return _grpc(error, failure)
    if isinstance(error, QdrantException):  # `Retry-After` is a date, which the client rejects
        return TransientError(f"{failure}: {_text(error)}")
    kind = RefusedError if isinstance(error, _NOT_ENCODED) else TargetError
    return kind(f"{failure}: {_text(error)}")


def _http(error: UnexpectedResponse, failure: str) -> TargetError:
    content = (error.content or b"").decode("utf-8", "replace").strip()
    message = f"{failure}: status {error.status_code}: {content or error.reason_phrase}"
    if error.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE or _is_too_large(content):
        return TooLargeError(message)
    if strict := refused_by(content):
        return _strict(message, *strict)
    if error.status_code in _TRANSIENT_STATUS:
        return TransientError(message, _retry_after(error.headers))
    return (RefusedError if error.status_code in _REFUSED_STATUS else TargetError)(message)


def _grpc(error: grpc.RpcError, failure: str) -> TargetError:
    # The exceptions raised are also `grpc.Call`s, which have these methods; the base class lacks
    # them.
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or _text(error)
    message = f"{failure}: {code.name}: {details}"
    if _is_too_large(details):
        return TooLargeError(message)
    if strict := refused_by(details):
        return _strict(message, *strict)
    if code is grpc.StatusCode.INTERNAL and _NOT_DECODED.search(details):
        if "deserializing" in details:  # a response, so there is no content to refuse
            return TargetError(
                f"{message}; a stored point is nested deeper than gRPC can return (about 30 "
                "levels): use REST, or load its document again with flatter metadata"
            )
        return RefusedError(message)
    if code in _TRANSIENT_CODES:
        return TransientError(message)
    return (RefusedError if code is grpc.StatusCode.INVALID_ARGUMENT else TargetError)(message)


def _strict(message: str, refused: Refused, why: str) -> TargetError:
    kinds = {"size": LimitError, "content": RefusedError, "request": TargetError}
    return kinds[refused](f"{message}; {why}")


def _is_too_large(text: str) -> bool:
    return any(phrase in text.lower() for phrase in _TOO_LARGE)


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Parse the header `Retry-After`, which holds seconds or a date; return seconds."""
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

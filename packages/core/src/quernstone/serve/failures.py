"""HTTP answers for errors: a status, a type for programs, and a message for people."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from quernstone.errors import (
    ClosedError,
    ConfigError,
    EngineError,
    EngineMemoryError,
    InputError,
    NonFiniteError,
    QuernstoneError,
)
from quernstone.serve.admission import BusyError

_SHOWN_ERRORS = 3


class RequestError(Exception):
    """Base of errors in requests, with their HTTP status."""

    status = 400
    kind = "invalid_request"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class TooMuchError(RequestError):
    """A request is larger than the server's limits."""

    status = 413
    kind = "too_large"


class NotReadyError(RequestError):
    """The models are loading, or the server is stopping."""

    status = 503
    kind = "not_ready"


class SlowError(RequestError):
    """The body did not arrive in time."""

    status = 408
    kind = "timeout"


class DeadlineError(RequestError):
    """The answer was not ready in time."""

    status = 504
    kind = "timeout"


# The first matching class counts.
_STATUSES: list[tuple[type[Exception], int, str]] = [
    (InputError, 422, "invalid_input"),
    (NonFiniteError, 422, "not_finite"),
    (ConfigError, 422, "invalid_request"),
    (LookupError, 404, "not_found"),
    (BusyError, 429, "busy"),
    (ClosedError, 503, "not_ready"),
    (EngineMemoryError, 507, "out_of_memory"),
    (EngineError, 500, "engine_failed"),
    (QuernstoneError, 500, "failed"),
]
HANDLED: tuple[type[Exception], ...] = (
    RequestError,
    ValidationError,
    *(kind for kind, _, _ in _STATUSES),
)
"""The errors that `answer_to` can convert."""


def answer_to(error: Exception) -> Response:
    """Return the answer for one of `HANDLED`."""
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, RequestError):
        headers = {"Retry-After": "1"} if isinstance(error, NotReadyError) else {}
        return failure(error.status, error.kind, str(error), headers=headers)
    status, kind = next((s, k) for known, s, k in _STATUSES if isinstance(error, known))
    message = error.args[0] if isinstance(error, LookupError) else str(error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, BusyError) else {}
    return failure(status, kind, message, index=getattr(error, "index", None), headers=headers)


def failure(
    status: int,
    kind: str,
    message: str,
    *,
    index: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build an error in the shape of OpenAI's API."""
    error = {"message": message, "type": kind, "param": None, "code": status, "index": index}
    content = orjson.dumps({"error": error})
    return Response(content, status, dict(headers or {}), "application/json")


def _invalid(error: ValidationError) -> Response:
    """Describe the first faults of a body, without quoting it, because it contains users' texts."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    if faults[0]["type"] == "json_invalid":
        return failure(400, "invalid_json", f"the body is not JSON: {faults[0]['msg']}")
    shown = []
    for fault in faults[:_SHOWN_ERRORS]:
        where = ".".join(map(str, fault["loc"])) or "body"
        shown.append(f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    more = len(faults) - len(shown)
    return failure(
        422, "invalid_request", "; ".join(shown) + (f"; and {more} more" if more else "")
    )

"""Read a request and compute its answer, with limits, deadlines, and clients that disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from quernstone.serve.failures import HANDLED, DeadlineError, SlowError, TooMuchError, answer_to
from quernstone.serve.options import ServeOptions
from quernstone.serve.schemas import Body

B = TypeVar("B", bound=Body)
HUNG_UP = 499
"""Status code for logs and metrics, as in nginx: the client disconnected before the response."""

# Bodies up to this size are parsed and written on the event loop, in well under a millisecond;
# larger ones in a thread.
_INLINE_BYTES = 20_000


async def read_body(request: Request, schema: type[B], options: ServeOptions) -> B:
    """Read and check the body of a request.

    Raises:
        TooMuchError: The body is larger than the limit.
        SlowError: The body did not arrive in time.
        ValidationError: The body is not JSON, or does not match the schema.
        ClientDisconnect: The client disconnected.
    """
    try:
        content = await asyncio.wait_for(_content(request, options.max_bytes), options.read_timeout)
    except asyncio.TimeoutError:
        message = f"the body did not arrive within {options.read_timeout:g} s"
        raise SlowError(message) from None
    if len(content) <= _INLINE_BYTES:
        return schema.model_validate_json(content)
    return await asyncio.to_thread(schema.model_validate_json, content)


async def _content(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooMuchError(f"the body has {declared} bytes, the limit is {limit}")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise TooMuchError(f"the body has more than {limit} bytes, the limit")
    return b"".join(parts)


async def answer(
    request: Request,
    schema: type[B],
    options: ServeOptions,
    handle: Callable[[B], Coroutine[Any, Any, Response]],
) -> Response:
    """Read a request and run its handler, unless it times out or the client disconnects."""
    try:
        body = await read_body(request, schema, options)
        return await _before_deadline(request, options.timeout, handle(body))
    except ClientDisconnect:
        return Response(status_code=HUNG_UP)
    except HANDLED as error:
        return answer_to(error)


async def _before_deadline(
    request: Request, timeout: float, handler: Coroutine[Any, Any, Response]
) -> Response:
    """Run a handler, and cancel it and its work at the timeout or if the client disconnects."""
    work, hung_up = asyncio.ensure_future(handler), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({work, hung_up}, timeout=timeout, return_when="FIRST_COMPLETED")
        if work.done():
            return work.result()
        if hung_up.done():
            raise ClientDisconnect
        raise DeadlineError(f"no answer within {timeout:g} s; send fewer or shorter inputs")
    finally:
        work.cancel()
        hung_up.cancel()
        await asyncio.gather(work, hung_up, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    """Wait until the client disconnects; call it after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def json_answer(render: Callable[..., Any], *arguments: Any, size: int) -> Response:
    """Build an answer of about `size` bytes of JSON."""
    if size <= _INLINE_BYTES:
        return _dump(render, *arguments)
    return await asyncio.to_thread(_dump, render, *arguments)


def _dump(render: Callable[..., Any], *arguments: Any) -> Response:
    content = orjson.dumps(render(*arguments), option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")

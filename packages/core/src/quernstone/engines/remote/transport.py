"""Requests to one server: a connection pool on an event loop of its own, and patience.

Synchronous and asynchronous callers share this one implementation: coroutines run on the loop's
thread, and their futures are waited for or awaited.

The retries are a loop of our own and not `stamina` or `tenacity`: what the server asks to wait is
weighed against the deadline before anybody sleeps, and the last attempt gets only the time that
is left.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import random
import ssl
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Any, TypeVar

import httpx
import orjson

from quernstone.engines.remote.options import KEY_VARIABLE, RemoteOptions
from quernstone.errors import (
    ClosedError,
    RemoteRequestError,
    RemoteUnavailableError,
)

logger = logging.getLogger("quernstone.remote")

T = TypeVar("T")

# 500 is among them: servers answer it to a crashed worker as well as to a request they dislike.
_AGAIN = {408, 429, 500, 502, 503, 504}
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 8.0
_LONGEST_ASKED_WAIT = 60.0
_MESSAGE_CHARS = 500


class _TryAgainError(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(reason, status, wait)
        self.reason, self.status, self.wait = reason, status, wait


class Transport:
    """Sends JSON to one server and gives back JSON. Used from any number of threads."""

    def __init__(self, options: RemoteOptions, api_key: str = "") -> None:
        """Start the loop's thread. Nothing is sent yet.

        Args:
            options: The server, and how patient to be.
            api_key: Sent as a bearer token, if it is not empty.
        """
        self._options = options
        self._authorization, self._secrets = _credentials(options, api_key)
        self._closing = False
        self._lock = threading.Lock()
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=self._run_loop, args=(ready,), name="quernstone-remote", daemon=True
        )
        self._thread.start()
        self._loop = ready.result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels its requests.

        Raises:
            ClosedError: The transport was closed.
        """
        with self._lock:
            if self._closing:
                work.close()
                raise ClosedError("the connection to the server was closed; make a new one")
            return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)

    def close(self) -> None:
        """Finish what was started, close the connections, end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def url(self, path: str) -> str:
        """The address of a path; `/v1` is not repeated if the endpoint ends in it."""
        endpoint = self._options.endpoint
        if endpoint.endswith("/v1") and path.startswith("/v1/"):
            path = path.removeprefix("/v1")
        return endpoint + path

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send one request, again where that can help.

        Returns:
            The answer's JSON.

        Raises:
            RemoteUnavailableError: Not reached, overloaded or broken in every attempt.
            RemoteRequestError: Refused; another attempt would not help.
        """
        return await self._send("POST", self.url(path), orjson.dumps(body))

    async def get(self, path: str) -> Any:
        """Like `post`, without a body."""
        return await self._send("GET", self.url(path), None)

    def _run_loop(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)  # for the thread that waits for it

    async def _main(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        self._stop = asyncio.Event()
        self._slots = asyncio.Semaphore(self._options.max_concurrency)
        self._running: set[asyncio.Task[Any]] = set()
        async with self._new_client() as self._client:
            ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None  # this is a coroutine
        self._running.add(task)
        try:
            return await work
        finally:
            self._running.discard(task)

    def _new_client(self) -> httpx.AsyncClient:
        options = self._options
        headers = {
            "User-Agent": f"quernstone/{version('quernstone')}",
            "Content-Type": "application/json",
        }
        if self._authorization:
            headers["Authorization"] = self._authorization
        pool = options.max_concurrency
        return httpx.AsyncClient(
            headers=headers,
            verify=_trusted(),
            timeout=options.timeout,
            limits=httpx.Limits(max_connections=pool, max_keepalive_connections=pool),
        )

    async def _send(self, method: str, url: str, body: bytes | None) -> Any:
        options = self._options
        end: float | None = None
        attempt = 0
        while True:
            attempt += 1
            async with self._slots:
                # to wait for others of ours is not the server's fault: the clock starts here
                end = end or time.monotonic() + options.deadline
                try:
                    return await self._attempt(method, url, body, end - time.monotonic())
                except _TryAgainError as error:
                    fault = error
            wait = _backoff(attempt) if fault.wait is None else fault.wait
            if attempt > options.max_retries:
                why = f"given up after {attempt} attempt{'s' * (attempt > 1)}"
            elif time.monotonic() + wait >= end:
                why = f"given up: to wait {wait:.1f} s more would break the deadline"
            else:
                logger.info("%s %s; again in %.1f s", url, fault.reason, wait)
                await asyncio.sleep(wait)
                continue
            raise RemoteUnavailableError(
                f"{fault.reason} ({why})", url, fault.status
            ) from fault.__cause__

    async def _attempt(self, method: str, url: str, body: bytes | None, left: float) -> Any:
        limit = min(self._options.timeout, left)
        try:
            # httpx counts seconds between bytes; a body that drips would never be late
            sending = self._client.request(method, url, content=body)
            response = await asyncio.wait_for(sending, limit)
        except asyncio.TimeoutError as error:
            raise _TryAgainError(f"gave no answer within {limit:.1f} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            detail = str(error) or type(error).__name__
            raise _TryAgainError(self._clean(f"failed: {detail}")) from error
        return self._read(response, url)

    def _read(self, response: httpx.Response, url: str) -> Any:
        if response.is_success:
            return self._json(response)
        status = response.status_code
        # cleaned before it is cut: half of a key is too much
        message = " ".join(self._clean(_message(response)).split())[:_MESSAGE_CHARS]
        reason = f"answered {status} {self._clean(response.reason_phrase)}: {message}".rstrip(": ")
        if status in _AGAIN:
            raise _TryAgainError(reason, status, _asked_wait(response))
        if status in (401, 403):
            reason += f"; give a key as `api_key` or in {KEY_VARIABLE}"
        elif status == 404:
            reason += "; is this the right dialect, and the right model?"
        elif response.is_redirect:
            reason += "; redirects are not followed, give the final address"
        raise RemoteRequestError(reason, url, status)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError:
            pass
        try:
            return json.loads(response.content)  # which reads the NaN of Python's own servers
        except ValueError as error:
            start = self._clean(response.text)[:80]
            reason = f"answered what is not JSON, or only its beginning: {start!r}"
            raise _TryAgainError(reason, response.status_code) from error

    def _clean(self, text: str) -> str:
        """Remove credentials that the server or a library repeats."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _credentials(options: RemoteOptions, api_key: str) -> tuple[str, list[str]]:
    """The header that identifies us, and what of it must never be shown."""
    if not options.basic_auth:
        return (f"Bearer {api_key}", [api_key]) if api_key else ("", [])
    pair = options.basic_auth.get_secret_value()
    encoded = base64.b64encode(pair.encode()).decode()
    user, _, password = pair.partition(":")
    return f"Basic {encoded}", [secret for secret in (encoded, user, password) if secret]


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificates to trust, which take longer to read than a short request takes."""
    return httpx.create_ssl_context()


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, capped, and at random in the upper half."""
    full: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
    return full * random.uniform(0.5, 1.0)


def _asked_wait(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After` header, which has a number or a date (RFC 9110, 10.2.3)."""
    asked = response.headers.get("Retry-After", "").strip()
    if not asked:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            date = parsedate_to_datetime(asked)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - datetime.now(timezone.utc)).total_seconds()
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), _LONGEST_ASKED_WAIT)


def _message(response: httpx.Response) -> str:
    """The server's own words, wherever it puts them."""
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        found = response.text
    for name in ("error", "message", "detail"):  # `error` may hold a `message` in turn
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    if isinstance(found, list) and all(isinstance(each, dict) and "msg" in each for each in found):
        found = "; ".join(str(each["msg"]) for each in found)  # FastAPI, without the input itself
    return found if isinstance(found, str) else orjson.dumps(found).decode()

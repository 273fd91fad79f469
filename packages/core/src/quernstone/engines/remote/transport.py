"""Requests to one server: a connection pool with its own event loop, and retries.

Coroutines run on the loop's thread; synchronous callers wait for their futures, and asynchronous
callers await them.

The retries do not use `stamina` or `tenacity`, because `Retry-After` is compared with the deadline
before waiting, and the last attempt gets only the remaining time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import os
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
from quernstone.errors import ClosedError, RemoteRequestError, RemoteUnavailableError

logger = logging.getLogger("quernstone.remote")

T = TypeVar("T")

# Servers send 500 for a crashed worker, but also for a request that they cannot process.
_RETRIED = {408, 429, 500, 502, 503, 504}
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 8.0
_LONGEST_ASKED_WAIT = 60.0
_MESSAGE_CHARS = 500


class _TryAgainError(Exception):
    """One attempt failed, and another may succeed."""

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(reason, status, wait)
        self.reason, self.status, self.wait = reason, status, wait


class Transport:
    """Sends JSON to one server and receives JSON. Safe for any number of threads."""

    def __init__(self, options: RemoteOptions, api_key: str = "") -> None:
        """Prepare. The first request starts the loop's thread, also in a forked child."""
        self._options = options
        self._authorization, self._secrets = _credentials(options, api_key)
        self._closing = False
        self._process = 0  # that the thread and its connections belong to
        self._locks: dict[int, threading.Lock] = {}  # a forked child needs one of its own

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels its requests."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._closing:
                work.close()
                raise ClosedError("the connection to the server was closed; create a new one")
            if self._process != os.getpid():
                self._start_loop()
            return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)

    def close(self) -> None:
        """Finish running requests, close the connections, end the thread."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            runs = self._process == os.getpid()
            if runs and not self._closing:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._closing = True
        if runs and threading.current_thread() is not self._thread:
            self._thread.join()

    def url(self, path: str) -> str:
        """Return the address of a path, without repeating a `/v1` at the end of the endpoint."""
        endpoint = self._options.endpoint
        if endpoint.endswith("/v1"):
            if path.startswith("/v1/"):
                path = path.removeprefix("/v1")
            elif path.startswith("/quernstone/"):
                endpoint = endpoint.removesuffix("/v1")
        return endpoint + path

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send one request, with retries where they can help. Return the answer's JSON."""
        return await self._send("POST", self.url(path), orjson.dumps(body))

    async def get(self, path: str) -> Any:
        """Like `post`, without a body."""
        return await self._send("GET", self.url(path), None)

    def _start_loop(self) -> None:
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=self._run_loop, args=(ready,), name="quernstone-remote", daemon=True
        )
        self._thread.start()
        self._loop = ready.result()
        self._process = os.getpid()

    def _run_loop(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)  # for `_start_loop`, which waits for it

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
        limits = httpx.Limits(max_connections=pool, max_keepalive_connections=pool)
        return httpx.AsyncClient(
            headers=headers, verify=_trusted(), timeout=options.timeout, limits=limits
        )

    async def _send(self, method: str, url: str, body: bytes | None) -> Any:
        options = self._options
        end: float | None = None
        attempt = 0
        while True:
            attempt += 1
            async with self._slots:
                # The deadline starts here, to exclude the wait for our own other requests.
                end = end or time.monotonic() + options.deadline
                try:
                    return await self._attempt(method, url, body, end - time.monotonic())
                except _TryAgainError as error:
                    fault = error
            wait = _backoff(attempt) if fault.wait is None else fault.wait
            if attempt > options.max_retries:
                why = f"gave up after {attempt} attempt{'s' * (attempt > 1)}"
            elif time.monotonic() + wait >= end:
                why = f"gave up: the next retry (in {wait:.1f} s) would exceed `deadline`"
            else:
                logger.info("%s %s; retrying in %.1f s", url, fault.reason, wait)
                await asyncio.sleep(wait)
                continue
            reason = f"{fault.reason} ({why})"
            raise RemoteUnavailableError(reason, url, fault.status) from fault.__cause__

    async def _attempt(self, method: str, url: str, body: bytes | None, left: float) -> Any:
        limit = min(self._options.timeout, left)
        try:
            # The timeouts of httpx are per read, so a slow body would never exceed them.
            sending = self._client.request(method, url, content=body)
            response = await asyncio.wait_for(sending, limit)
        except asyncio.TimeoutError as error:
            raise _TryAgainError(f"did not answer within {limit:.1f} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            detail = str(error) or type(error).__name__
            raise _TryAgainError(self._clean(f"failed: {detail}")) from error
        return self._read(response, url)

    def _read(self, response: httpx.Response, url: str) -> Any:
        if response.is_success:
            return self._json(response)
        status = response.status_code
        # Remove credentials before shortening, which could leave half of a key.
        message = " ".join(self._clean(_message(response)).split())[:_MESSAGE_CHARS]
        reason = f"answered {status} {self._clean(response.reason_phrase)}: {message}".rstrip(": ")
        if status in _RETRIED:
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
            return json.loads(response.content)  # unlike orjson, accepts Python's NaN
        except ValueError as error:
            start = self._clean(response.text)[:80]
            reason = f"answered with invalid or incomplete JSON: {start!r}"
            raise _TryAgainError(reason, response.status_code) from error

    def _clean(self, text: str) -> str:
        """Remove credentials that the server or a library quotes."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _credentials(options: RemoteOptions, api_key: str) -> tuple[str, list[str]]:
    """Return the `Authorization` header, and the strings to hide in messages."""
    if not options.basic_auth:
        return (f"Bearer {api_key}", [api_key]) if api_key else ("", [])
    pair = options.basic_auth.get_secret_value()
    encoded = base64.b64encode(pair.encode()).decode()
    user, _, password = pair.partition(":")
    return f"Basic {encoded}", [secret for secret in (encoded, user, password) if secret]


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Read the trusted certificates once, which takes longer than a short request."""
    return httpx.create_ssl_context()


def _backoff(attempt: int) -> float:
    """Return the seconds to the next attempt: exponential, capped, with jitter."""
    full: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
    return full * random.uniform(0.5, 1.0)


def _asked_wait(response: httpx.Response) -> float | None:
    """Parse `Retry-After`, which contains seconds or a date (RFC 9110, 10.2.3)."""
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
    """Extract the server's error message."""
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        found = response.text
    for name in ("error", "message", "detail"):  # `error` may contain a `message`
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    if isinstance(found, list) and all(isinstance(each, dict) and "msg" in each for each in found):
        found = "; ".join(str(each["msg"]) for each in found)  # FastAPI, without the input itself
    return found if isinstance(found, str) else orjson.dumps(found).decode()

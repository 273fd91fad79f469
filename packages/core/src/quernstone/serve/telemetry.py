"""Metrics for Prometheus, and a log line of JSON per request. Neither contains texts or keys."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quernstone.model import session_of
from quernstone.runtime.jobs import BatchStart
from quernstone.runtime.worker import Worker
from quernstone.serve.models import Models
from quernstone.serve.requests import HUNG_UP
from quernstone.serve.speed import Speed

logger = logging.getLogger("quernstone.serve")

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(slots=True)
class Counted:
    """The size of a request, recorded by its handler."""

    inputs: int = 0
    tokens: int = 0
    truncated: int = 0


class Telemetry:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        place: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("quern_requests", "Requests answered.", ("path", "status"), **place)
        self.seconds = Histogram(
            "quern_request_seconds", "Seconds per request.", ("path",), buckets=_SECONDS, **place
        )
        self.inputs = Histogram(
            "quern_request_inputs", "Inputs per request.", buckets=_INPUTS, **place
        )
        self._batch_inputs = Histogram(
            "quern_batch_inputs", "Inputs per batch of the model.", buckets=_INPUTS, **place
        )
        self._batch_tokens = Histogram(
            "quern_batch_tokens", "Tokens per batch of the model.", buckets=_TOKENS, **place
        )
        self._queue_seconds = Histogram(
            "quern_queue_seconds",
            "Seconds that a request waited for its first batch.",
            buckets=_SECONDS,
            **place,
        )
        self.tokens = Counter("quern_tokens", "Tokens computed, prompts included.", **place)
        self.truncated = Counter("quern_truncated_inputs", "Inputs that were truncated.", **place)
        self.running = Gauge("quern_running_requests", "Requests in progress.", **place)
        waiting = "Tokens that wait or are computed."
        self._waiting = Gauge("quern_waiting_tokens", waiting, **place)
        self._wait = Gauge("quern_expected_wait_seconds", "Wait of the next request.", **place)
        self._rate = Gauge("quern_tokens_per_second", "Measured rate while busy.", **place)

    def watch(self, models: Models) -> None:
        """Connect the metrics to the queue of a server and to the batches of its models."""
        admission = models.admission
        self._waiting.set_function(lambda: admission.waiting)
        self._rate.set_function(lambda: admission.rate)
        self._wait.set_function(lambda: admission.wait)
        for model in models:
            backend = session_of(model).backend
            if isinstance(backend, Worker):  # a remote server does not report its batches
                backend.on_batch = partial(self._observe_batch, models.speed)

    def _observe_batch(self, speed: Speed, batch: BatchStart) -> None:
        speed.begin(batch.tokens)
        self._batch_inputs.observe(batch.inputs)
        self._batch_tokens.observe(batch.tokens)
        for seconds in batch.waits:
            self._queue_seconds.observe(seconds)

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class Observed:
    """ASGI middleware that measures and logs every request."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its status, duration and size."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), HUNG_UP
        counted = scope.setdefault("state", {})["counted"] = Counted()
        request_id = uuid.uuid4().hex[:16]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        with self._telemetry.running.track_inprogress():
            try:
                await self._app(scope, receive, answer)
            finally:
                seconds = time.perf_counter() - start
                # Unknown paths share one label; otherwise a scanner would fill the metrics.
                path = getattr(scope.get("route"), "path", "other")
                self._record(path, status, seconds, counted)
                logger.info(
                    "%s",
                    orjson.dumps(
                        {
                            "request": request_id,
                            "method": scope["method"],
                            "path": path,
                            "status": status,
                            "ms": round(seconds * 1000, 2),
                            "inputs": counted.inputs,
                            "tokens": counted.tokens,
                            "truncated": counted.truncated,
                        }
                    ).decode(),
                )

    def _record(self, path: str, status: int, seconds: float, counted: Counted) -> None:
        metrics = self._telemetry
        metrics.requests.labels(path, status).inc()
        metrics.seconds.labels(path).observe(seconds)
        if counted.inputs:
            metrics.inputs.observe(counted.inputs)
        metrics.tokens.inc(counted.tokens)
        metrics.truncated.inc(counted.truncated)

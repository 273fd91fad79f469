"""The ASGI application of `quern serve`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from quernstone.serve.failures import HANDLED, answer_to, failure
from quernstone.serve.keys import Keys
from quernstone.serve.models import Load
from quernstone.serve.options import ServeOptions
from quernstone.serve.routes import add_routes
from quernstone.serve.state import State
from quernstone.serve.telemetry import Observed

_OPEN_PATHS = {"/health"}
"""Paths that need no key: load balancers have none."""


def create_app(
    load: Load, options: ServeOptions, *, failed: Callable[[], None] = lambda: None
) -> FastAPI:
    """Create the application, which loads the models when it starts and answers `/health` already.

    Args:
        load: Function that returns the models; called once, in a thread.
        options: The limits.
        failed: Called if the models cannot be loaded; `app.state.server.error` is the exception.
    """
    state = State(options)

    def loaded(task: asyncio.Task[None]) -> None:
        if error := task.exception():
            state.fail(error)
            failed()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(state.load(load))
        loading.add_done_callback(loaded)
        yield
        await asyncio.wait([loading])
        state.close()

    app = FastAPI(
        title="Quernstone",
        description="Embeddings and reranking with Qwen3 models.",
        version=version("quernstone"),
        lifespan=lifespan,
    )
    app.state.server = state
    add_routes(app, state)
    for kind in HANDLED:
        app.add_exception_handler(kind, _answer_to)
    app.add_middleware(_Guarded, keys=Keys(options.keys))
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Observed, telemetry=state.telemetry)
    return app


async def _answer_to(_: Request, error: Exception) -> Response:
    return answer_to(error)


class _Guarded:
    """ASGI middleware that refuses requests without an accepted key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Pass a request on if its path is open or its key is accepted."""
        guarded = scope["type"] == "http" and self._keys and scope["path"] not in _OPEN_PATHS
        if guarded and not self._keys.accept(_authorization(scope)):
            message = "the API key is missing or wrong; send `Authorization: Bearer KEY`"
            headers = {"WWW-Authenticate": "Bearer"}
            refuse = failure(401, "unauthorized", message, headers=headers)
            return await refuse(scope, receive, send)
        return await self._app(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    value = headers.get(b"authorization")
    return None if value is None else value.decode("latin-1")

"""Run a server until a signal stops it."""

from __future__ import annotations

import logging
from types import FrameType

import uvicorn

from quernstone.serve.app import create_app
from quernstone.serve.models import Load
from quernstone.serve.options import ServeOptions
from quernstone.serve.state import State

# Orchestrators kill a container ten seconds after SIGTERM.
_DRAIN_SECONDS = 9
# Longer than clients keep an idle connection. If the server closed it first, just when a client
# sends its next request, the client would get an error.
_KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    """Server that refuses new requests as soon as it receives a signal."""

    state: State

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        self.state.stop()
        super().handle_exit(sig, frame)


def run(load: Load, options: ServeOptions, *, host: str, port: int, uds: str | None) -> None:
    """Serve until SIGTERM or SIGINT. Running requests have nine seconds to finish.

    Raises:
        QuernstoneError: The models cannot be loaded.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server: _Server

    def failed() -> None:
        server.should_exit = True

    app = create_app(load, options, failed=failed)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        uds=uds,
        access_log=False,  # `telemetry` logs requests
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config)
    server.state = app.state.server
    server.run()
    if server.state.error is not None:
        raise server.state.error

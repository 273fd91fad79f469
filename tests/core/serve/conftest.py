"""A real server of the tiny models on a port of this machine."""

from contextlib import contextmanager
from threading import Thread

import pytest
import uvicorn

from quernstone import Embedder, Reranker
from quernstone.serve.app import create_app
from quernstone.serve.models import Models
from quernstone.serve.options import ServeOptions

KEY = "right-key"


@contextmanager
def running(embed="tiny", rerank="tiny", load=None, wait=True, **options):
    """Serve in a thread. Yields the address, with the application as `.app`."""
    limits = ServeOptions(**options)

    def load_models():
        return Models(
            Embedder(embed, dtype="float32") if embed else None,
            Reranker(rerank, dtype="float32") if rerank else None,
            limits,
        )

    app = create_app(load or load_models, limits)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    while wait and app.state.server.status == "loading":
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def url():
    with running() as address:
        yield address


@pytest.fixture(scope="module")
def guarded():
    with running(keys=(KEY, "another-key"), cors_origins=("https://app.example",)) as address:
        yield address


@pytest.fixture(scope="module")
def embedder():
    with Embedder("tiny", dtype="float32") as model:
        yield model


@pytest.fixture(scope="module")
def reranker():
    with Reranker("tiny", dtype="float32") as model:
        yield model

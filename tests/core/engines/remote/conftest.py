import pytest
from tests.support.embedding_server import MODEL, StubServer

from quernstone.engines.remote import transport
from quernstone.engines.remote.backend import RemoteBackend
from quernstone.engines.remote.options import KEY_VARIABLE, RemoteOptions
from quernstone.types import EngineConfig


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waits of milliseconds, and no key of the machine."""
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def serve():
    """Starts stub servers."""
    started = []

    def start(dialect="openai", **settings):
        started.append(StubServer(dialect, **settings).__enter__())
        return started[-1]

    yield start
    for stub in started:
        stub.__exit__()


@pytest.fixture
def connect():
    """Makes backends; closes them."""
    made = []

    def make(stub, task="embed", *, max_length=512, truncate=True, model=MODEL, **options):
        options = {"endpoint": stub.url, "dialect": stub.dialect, **options}
        config = EngineConfig(
            task=task,
            model=model,
            engine="remote",
            options=RemoteOptions(**options),
            max_length=max_length,
            truncate=truncate,
        )
        made.append(RemoteBackend(config))
        return made[-1]

    yield make
    for backend in made:
        backend.close()

"""A small embedder with distinguishable vectors, so that these tests need no model."""

import hashlib
import os
import ssl
from contextlib import ExitStack
from functools import cache, partial

import numpy as np
import pytest
import tenacity
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone.errors import InputError
from quernstone.types import EngineInfo, RankedDocument
from quernstone_qdrant import provenance, retry
from quernstone_qdrant.targets import connect, indexing


class WordEmbedder:
    """Hashes words into a vector: texts that share words are near. Counts what it embeds."""

    def __init__(self, model="words", dimensions=64, revision="1", dtype="float32"):
        self.model, self.revision, self.dimensions = model, revision, dimensions
        self.info = EngineInfo(
            engine="test", device="cpu", dtype=dtype, attention="none", max_batch_tokens=1
        )
        self.embedded = []

    def embed_documents(self, texts):
        for index, text in enumerate(texts):
            if "poison" in text:
                raise InputError(index, "no poison")
        self.embedded.extend(texts)
        rows = [self._vector(text) for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.dimensions), np.float32)

    def format_query(self, text):
        return f"query: {text}"

    def embed_query(self, text, instruction=None):
        return self._vector(text)

    async def aembed_query(self, text, instruction=None):
        return self._vector(text)

    def _vector(self, text):
        vector = np.full(self.dimensions, 1e-3, dtype=np.float32)
        for word in text.lower().split():
            digest = hashlib.sha256(word.strip(".,?!").encode()).digest()
            vector[int.from_bytes(digest[:4], "big") % self.dimensions] += 1
        return vector / np.linalg.norm(vector)


class LengthReranker:
    """The shorter, the better."""

    def rerank(self, query, documents, top_n=None, instruction=None):
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
        return [RankedDocument(i, 1 / (1 + len(documents[i]))) for i in order[:top_n]]

    async def arerank(self, query, documents, top_n=None, instruction=None):
        return self.rerank(query, documents, top_n, instruction)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shortens pauses of up to a second, which only a real server needs."""
    if "QDRANT_URL" in os.environ:
        return
    shorter = tenacity.wait_random_exponential(multiplier=retry._FIRST_SECONDS / 25)
    monkeypatch.setattr(retry, "_backoff", shorter)
    monkeypatch.setattr(provenance, "_ADOPTION_SECONDS", 0.05)
    often = partial(indexing.wait_until_green, interval=0.02)
    monkeypatch.setattr("quernstone_qdrant.targets.client.wait_until_green", often)


@pytest.fixture(scope="module", autouse=True)
def shared_certificates():
    """Lets all clients of a module share the trusted certificates, which take long to read.

    The servers of these tests talk HTTP, without certificates.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def make_embedder():
    return WordEmbedder


@pytest.fixture
def embedder():
    return WordEmbedder()


@pytest.fixture
def reranker():
    return LengthReranker()


@pytest.fixture
def client():
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def stored():
    """All points of a collection, by id: (payload, vector)."""

    def read(client, collection):
        points, _ = client.scroll(collection, limit=100_000, with_payload=True, with_vectors=True)
        return {point.id: (point.payload, point.vector) for point in points}

    return read


@pytest.fixture
def assert_same(stored):
    """Fails unless two collections hold the same points."""

    def check(client, other, collection):
        here, there = stored(client, collection), stored(other, collection)
        assert {i: payload for i, (payload, _) in here.items()} == {
            i: payload for i, (payload, _) in there.items()
        }
        for point, (_, vector) in there.items():
            # the embedded client normalizes in float32 or float64, as a point came
            np.testing.assert_allclose(here[point][1], vector, atol=1e-7)

    return check


@pytest.fixture
def open_server():
    """Opens a client of the server at QDRANT_URL, or of a model of one in this process.

    Set QDRANT_API_KEY if the server needs a key.
    """
    with ExitStack() as stack:

        def open_server(transport, version="1.18.3"):
            by_grpc, url = transport == "grpc", os.environ.get("QDRANT_URL")
            if url is None:
                server = stack.enter_context(running_server(version))
                return server.client(prefer_grpc=by_grpc, timeout=60)
            key = os.environ.get("QDRANT_API_KEY")
            client = connect(url=url, api_key=key, prefer_grpc=by_grpc)
            stack.callback(client.close)
            return client

        yield open_server


@pytest.fixture(scope="module")
def shared_server():
    """A model of a server for all tests of a module; `either_client` empties it."""
    with running_server() as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def either_client(shared_server, request):
    """A client of `shared_server`, by REST and by gRPC."""
    client = shared_server.client(prefer_grpc=request.param == "grpc")
    yield client
    shared_server.chaos, shared_server.version = None, "1.18.3"
    for name in list(shared_server.collections):
        client.delete_collection(name)

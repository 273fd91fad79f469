"""The places where searches run, and a few records to find."""

from datetime import datetime, timezone

import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.targets.edge import EdgeTarget

NOW = datetime.now(timezone.utc)
LONG = " ".join(f"Grain is ground in mill number {n}." for n in range(8))
RECORDS = [
    {"id": "long", "text": LONG, "topic": "tools", "day": "2001-01-01", "views": 900},
    {"id": "bread", "text": "Bread of grain.", "topic": "food", "day": NOW.isoformat()},
    {"id": "oven", "text": "An oven for bread and grain.", "topic": "food", "views": 10},
    {"id": "mill", "text": "Grain is ground in a mill.", "topic": "tools", "views": 100},
    {"id": "rain", "text": "It rains on grain.", "topic": "weather", "views": 0},
]
QUERY = "grain ground in a mill"
PLACES = ["embedded", "edge", "rest", "grpc"]


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


@pytest.fixture
def target(place, shared_server, tmp_path):
    """A client or a target that tests load `docs` into."""
    if place == "edge":
        target = EdgeTarget(tmp_path, "docs")
        yield target
        target.close()
        return
    if place == "embedded":
        client = QdrantClient(":memory:")
        yield client
        client.close()
        return
    client = shared_server.client(prefer_grpc=place == "grpc")
    yield client
    shared_server.strict, shared_server.version = {}, "1.18.3"
    for name in list(shared_server.collections):
        client.delete_collection(name)


@pytest.fixture
def loaded(target, embedder):
    QdrantLoader(target, "docs", embedder, chunk_size=40).load(RECORDS)
    return target


def keys(hits):
    return [hit.key for hit in hits]


def cosine(embedder, query, hit):
    return float(embedder.embed_query(query) @ embedder.embed_documents([hit.text])[0])

"""The places where searches run."""

import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant.targets.edge import EdgeTarget

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

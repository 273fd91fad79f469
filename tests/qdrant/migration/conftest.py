"""Places of all kinds, and the second model of a migration."""

from contextlib import ExitStack, closing

import pytest
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone_qdrant import EdgeTarget
from quernstone_qdrant.targets import as_target


@pytest.fixture
def place(tmp_path):
    """Open a target for a collection in a new place of some kind."""
    with ExitStack() as stack:
        count = 0

        def open_place(kind, collection="docs"):
            nonlocal count
            count += 1
            if kind == "edge":
                return stack.enter_context(closing(EdgeTarget(tmp_path / str(count), collection)))
            if kind == "embedded":
                client = QdrantClient(":memory:")
            else:
                server = stack.enter_context(running_server())
                server.float_noise = server.shuffle_keys = True
                client = server.client(prefer_grpc=kind == "grpc")
            stack.enter_context(closing(client))
            return as_target(client, collection)

        yield open_place


@pytest.fixture
def other(make_embedder):
    return make_embedder(model="org/other", dimensions=48, revision="2")

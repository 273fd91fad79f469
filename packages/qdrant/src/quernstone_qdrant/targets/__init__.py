"""Where points are kept: one protocol, and one module for each client library."""

from __future__ import annotations

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone_qdrant.targets.base import (
    CollectionState,
    FoundPoint,
    SearchRequest,
    StoredPoint,
    Target,
    VectorState,
)
from quernstone_qdrant.targets.client import ClientTarget, connect

__all__ = [
    "ClientTarget",
    "CollectionState",
    "FoundPoint",
    "SearchRequest",
    "StoredPoint",
    "Target",
    "VectorState",
    "as_target",
    "connect",
]


def as_target(client: QdrantClient | Target, collection: str) -> Target:
    """See a collection through a client; a target is returned as it is.

    Raises:
        ConfigError: The target is another collection's, or `client` is none of the two (an
            `AsyncQdrantClient`, for one).
    """
    if isinstance(client, QdrantClient):
        return ClientTarget(client, collection)
    if not callable(getattr(client, "describe", None)):
        raise ConfigError(
            f"a {type(client).__name__} is no target; pass a `qdrant_client.QdrantClient` "
            "or a target of `quernstone_qdrant.targets`"
        )
    if client.collection != collection:
        raise ConfigError(
            f"the target is of collection {client.collection!r}, but {collection!r} is wanted"
        )
    return client

"""Where points are stored: the `Target` protocol, and one module per client library."""

from __future__ import annotations

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone_qdrant.targets.base import (
    CollectionState,
    StoredPoint,
    Target,
    VectorState,
)
from quernstone_qdrant.targets.client import ClientTarget
from quernstone_qdrant.targets.connection import connect
from quernstone_qdrant.targets.requests import FoundPoint, SearchRequest

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
    """Return the target for a collection; a target is returned unchanged.

    Raises:
        ConfigError: The target belongs to another collection, or `client` is neither a client nor a
            target (for example, an `AsyncQdrantClient`).
    """
    if isinstance(client, QdrantClient):
        return ClientTarget(client, collection)
    if not callable(getattr(client, "describe", None)):
        raise ConfigError(
            f"`client` has type {type(client).__name__}; pass a `qdrant_client.QdrantClient` "
            "or a target from `quernstone_qdrant.targets`"
        )
    if client.collection != collection:
        raise ConfigError(
            f"the target belongs to collection {client.collection!r}, not to {collection!r}; "
            "pass the same name to both"
        )
    return client

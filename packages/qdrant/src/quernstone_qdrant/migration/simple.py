"""Migrate a collection by one call."""

from __future__ import annotations

from typing import Any

from qdrant_client import QdrantClient

from quernstone_qdrant.embedders import AnyEmbedder
from quernstone_qdrant.migration.migrate import QdrantMigration
from quernstone_qdrant.migration.report import MigrationReport
from quernstone_qdrant.targets import Target


def migrate_collection(
    client: QdrantClient | Target,
    collection: str,
    embedder: AnyEmbedder,
    *,
    switch: bool = True,
    **arguments: Any,
) -> MigrationReport:
    """Migrate a collection to another model or other settings; see `QdrantMigration`.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: The name that programs use.
        embedder: Embedder of the new collection.
        switch: False: stop before the switch.
        arguments: The other arguments of `QdrantMigration`.
    """
    return QdrantMigration(client, collection, embedder, **arguments).run(switch=switch)

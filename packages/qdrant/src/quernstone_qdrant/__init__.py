"""Qdrant for Quernstone: load documents exactly once, search them, and rerank the results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quernstone_qdrant.documents.records import Record
    from quernstone_qdrant.embedders import FrameworkEmbedder
    from quernstone_qdrant.errors import (
        CollectionError,
        CollectionNotFoundError,
        CollectionReplacedError,
        ProvenanceError,
        RecordError,
        SourceError,
        TargetError,
        WriteError,
    )
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.migration.copy import CopyReport, copy_collection
    from quernstone_qdrant.migration.migrate import QdrantMigration
    from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport
    from quernstone_qdrant.migration.simple import migrate_collection
    from quernstone_qdrant.report import Depths, LoadReport
    from quernstone_qdrant.searcher import QdrantSearcher
    from quernstone_qdrant.searching.boosts import Popularity, Recency
    from quernstone_qdrant.searching.feedback import Feedback
    from quernstone_qdrant.searching.hits import SearchHit
    from quernstone_qdrant.settings import CollectionSettings
    from quernstone_qdrant.sources import read_paths
    from quernstone_qdrant.targets.edge import EdgeTarget

__all__ = [
    "CollectionError",
    "CollectionNotFoundError",
    "CollectionReplacedError",
    "CollectionSettings",
    "CopyReport",
    "Depths",
    "EdgeTarget",
    "Feedback",
    "FrameworkEmbedder",
    "LoadReport",
    "MigrationPlan",
    "MigrationReport",
    "Popularity",
    "ProvenanceError",
    "QdrantLoader",
    "QdrantMigration",
    "QdrantSearcher",
    "Recency",
    "Record",
    "RecordError",
    "SearchHit",
    "SourceError",
    "TargetError",
    "WriteError",
    "copy_collection",
    "migrate_collection",
    "read_paths",
]

_EXPORTS = {
    "loader": ("QdrantLoader",),
    "documents.records": ("Record",),
    "embedders": ("FrameworkEmbedder",),
    "migration.copy": ("CopyReport", "copy_collection"),
    "migration.migrate": ("QdrantMigration",),
    "migration.simple": ("migrate_collection",),
    "migration.report": ("MigrationPlan", "MigrationReport"),
    "report": ("Depths", "LoadReport"),
    "searcher": ("QdrantSearcher",),
    "searching.boosts": ("Popularity", "Recency"),
    "searching.feedback": ("Feedback",),
    "searching.hits": ("SearchHit",),
    "settings": ("CollectionSettings",),
    "sources": ("read_paths",),
    "targets.edge": ("EdgeTarget",),
    "errors": (
        "CollectionError",
        "CollectionNotFoundError",
        "CollectionReplacedError",
        "ProvenanceError",
        "RecordError",
        "SourceError",
        "TargetError",
        "WriteError",
    ),
}


def __getattr__(name: str) -> Any:
    # `quern --help` imports this package for its commands. The Qdrant client and Arrow take a
    # second to import, so import them only when they are used.
    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""The files of one Edge collection: its shard, and the description of what the shard holds."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import qdrant_edge as edge

from quernstone.errors import ConfigError, QuernstoneError
from quernstone_qdrant.errors import (
    CollectionError,
    CollectionNotFoundError,
    RefusedError,
    TargetError,
)
from quernstone_qdrant.settings import CollectionSettings, VectorSettings
from quernstone_qdrant.targets.base import CollectionState, TargetKind
from quernstone_qdrant.targets.configuration import schema_state
from quernstone_qdrant.targets.edge_files import (
    DESCRIPTION,
    check_room,
    edge_collections,
    folder_name,
    refuse_folder_of,
    replace_file,
)
from quernstone_qdrant.targets.edge_schema import edge_indexes, schema_config, unknown_to_edge
from quernstone_qdrant.targets.edge_shard import is_locked, load_shard
from quernstone_qdrant.targets.edge_translate import settings_state, shard_config
from quernstone_qdrant.targets.schema import CollectionSchema

SHARD = "shard"
"""Folder of Edge's files in that of the collection."""
_SYNC_SECONDS = 5.0
"""Default of a server (`flush_interval_sec`)."""
_WRITERS = 2
"""One thread writes while the loader reads stored payloads."""
AnyEdge = TypeVar("AnyEdge", bound="EdgeAccess")


class EdgeAccess:
    """The part of `EdgeTarget` that creates, describes, opens and closes a collection.

    A collection that a `QdrantLoader` created is described by its settings, and the copy of another
    program's collection by its schema.
    """

    def __init__(self, path: str | Path, collection: str) -> None:
        if not collection:
            raise ConfigError("the collection's name is empty; pass a name as `collection`")
        refuse_folder_of(path, "embedded")
        self.path, self.collection = Path(path), collection
        self.kind: TargetKind = "edge"
        self.writers = _WRITERS
        self._home = self.path / folder_name(collection)
        self._opened: edge.EdgeShard | None = None
        self.close_count = 0
        self._opening = threading.Lock()
        self._describing = threading.RLock()
        """Held while the description is read and replaced: threads may change different keys."""
        self._synced = time.monotonic()

    def pinned(self: AnyEdge) -> AnyEdge:
        """See `Target.pinned`. Edge has no aliases."""
        return self

    def exists(self) -> bool:
        """See `Target.exists`."""
        return (self._home / DESCRIPTION).is_file()

    def state(self) -> CollectionState:
        """See `Target.state`."""
        description = self._description()
        with self._failures("reading the state"):
            info = self._shard().info()
        if "schema" in description:
            configured = schema_state(CollectionSchema.from_json(description["schema"]))
        else:
            settings = CollectionSettings.from_json(description["settings"])
            configured = settings_state(
                settings,
                description["dimensions"],
                other_vectors(description),
                info.payload_schema,
            )
        return CollectionState(
            metadata=description["metadata"],
            points=info.points_count,
            segments=info.segments_count,
            indexed=info.indexed_vectors_count,
            **configured,
        )

    def schema(self) -> CollectionSchema:
        """See `Target.schema`.

        Raises:
            CollectionError: The collection has settings of this package instead.
        """
        description = self._description()
        if "schema" not in description:
            raise CollectionError(self.collection, "a `QdrantLoader` created it, with settings")
        return CollectionSchema.from_json(description["schema"])

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """See `Target.create`."""
        if self.exists():
            raise CollectionError(self.collection, "it exists already; load into it, or delete it")
        self._create_shard(shard_config(settings, dimensions, {}))
        # Write the description last: the collection exists once it is written.
        self._describe(
            {"settings": settings.to_json(), "dimensions": dimensions, "metadata": dict(metadata)}
        )

    def create_like(self, schema: CollectionSchema, metadata: Mapping[str, Any]) -> list[str]:
        """See `Target.create_like`."""
        unknown = list(unknown_to_edge(schema))
        if unknown:
            raise CollectionError(self.collection, f"Edge cannot have {', '.join(unknown)}")
        if not self.exists():
            self._create_shard(schema_config(schema))
            self._describe({"schema": schema.to_json(), "metadata": dict(metadata)})
        with self._failures("creating the payload indexes"):
            shard = self._shard()
            existing = shard.info().payload_schema
            for path, index in edge_indexes(schema).items():
                if path not in existing:
                    shard.update(edge.UpdateOperation.create_field_index(path, index))
        return []

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """See `Target.describe`."""
        with self._describing:
            description = self._description()
            self._describe({**description, "metadata": {**description["metadata"], **metadata}})

    def _reload(self, doing: str, **changes: Any) -> None:
        """Change the description, and open the shard again with its configuration."""
        with self._describing:
            description = {**self._description(), **changes}
            settings = CollectionSettings.from_json(description["settings"])
            config = shard_config(settings, description["dimensions"], other_vectors(description))
            self.close()
            with self._failures(doing), self._opening:
                self._opened = load_shard(self._home / SHARD, config)
            self._describe(description)

    def close(self) -> None:
        """See `Target.close`. Using the target again reopens the files."""
        with self.closed():
            pass

    @contextmanager
    def closed(self) -> Iterator[Path]:
        """Keep the files closed inside the block; yields the folder of the collection."""
        with self._opening:
            if self._opened is not None:
                shard, self._opened = self._opened, None
                self.close_count += 1
                with self._failures("closing the files"):
                    shard.flush()
                    shard.close()
            yield self._home

    def _create_shard(self, config: edge.EdgeConfig) -> None:
        shard = self._home / SHARD
        with self._failures("creating the collection"):
            if shard.exists():
                self._remove_unfinished(shard)
            shard.mkdir(parents=True)
            check_room(shard, 0)
            self._opened = edge.EdgeShard.create(str(shard), config)
            self._opened.flush()

    def _shard(self) -> edge.EdgeShard:
        with self._opening:
            if self._opened is None:
                self._description()  # raises if the collection does not exist
                self._opened = load_shard(self._home / SHARD)
            return self._opened

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced >= _SYNC_SECONDS:
            self._shard().flush()
            self._synced = now

    def _remove_unfinished(self, shard: Path) -> None:
        """Remove the shard of a process that was killed while creating the collection."""
        if (shard / "edge_config.json").exists():
            load_shard(shard).close()  # raises if another process has the shard open
        shutil.rmtree(shard)

    def _description(self) -> dict[str, Any]:
        try:
            content = (self._home / DESCRIPTION).read_bytes()
        except FileNotFoundError:
            raise CollectionNotFoundError(self.collection, edge_collections(self.path)) from None
        with self._failures("reading the description"):
            description: dict[str, Any] = orjson.loads(content)
        return description

    def _describe(self, description: Mapping[str, Any]) -> None:
        """Replace the description."""
        with self._failures("writing the description"):
            replace_file(
                self._home / DESCRIPTION, orjson.dumps(description, option=orjson.OPT_INDENT_2)
            )

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Convert exceptions of Edge to a `TargetError` that names the operation."""
        try:
            yield
        except QuernstoneError:
            raise
        # Edge raises a bare `Exception` for every failure of the engine.
        except Exception as error:
            if is_locked(error):
                raise TargetError(
                    f"collection {self.collection!r} in {str(self.path)!r} is in use by another "
                    "process; Edge allows one process at a time: end the other one first"
                ) from error
            not_encoded = isinstance(error, (TypeError, ValueError, OverflowError))
            raise (RefusedError if not_encoded else TargetError)(
                f"Qdrant Edge failed at {doing} (collection {self.collection!r}): {error}"
            ) from error


def other_vectors(description: Mapping[str, Any]) -> dict[str, VectorSettings]:
    """Return the dense vectors in a description that are not part of its settings."""
    stored = description.get("others", {})
    return {name: VectorSettings(**vector) for name, vector in stored.items()}

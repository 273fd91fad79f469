"""A collection in Qdrant Edge: Qdrant's engine, with HNSW and quantization, in a local folder.

A folder holds any number of collections, each in a subfolder:

    <collection>/collection.json    settings and metadata, which Edge cannot store
    <collection>/shard/             Edge's files: a write-ahead log and segments

Edge writes every update to its log before it returns, so killing the process loses no update for
which `upsert` returned: opening the shard replays the log. Against power failures, files are synced
every five seconds, at the end of a load and when the target is closed, as a server does. The next
load restores points lost in between.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import qdrant_edge as edge

from quernstone_qdrant.errors import (
    CollectionError,
    CollectionNotFoundError,
    TargetError,
)
from quernstone_qdrant.settings import AnyVectorBatch, CollectionSettings, DeferIndex
from quernstone_qdrant.targets.base import (
    Payload,
    StoredPoint,
    native_id,
    native_ids,
)
from quernstone_qdrant.targets.edge_access import SHARD, EdgeAccess, other_vectors
from quernstone_qdrant.targets.edge_files import DESCRIPTION, check_room, check_room_for_index
from quernstone_qdrant.targets.edge_filters import edge_filter
from quernstone_qdrant.targets.edge_optimize import optimize_in_process
from quernstone_qdrant.targets.edge_queries import query_request
from quernstone_qdrant.targets.edge_shard import is_locked
from quernstone_qdrant.targets.edge_translate import (
    field_schemas,
    new_vector,
    point_vectors,
    update_operations,
    written_bytes,
)
from quernstone_qdrant.targets.features import check_local
from quernstone_qdrant.targets.queries import found_point
from quernstone_qdrant.targets.requests import Feature, FoundPoint, SearchRequest
from quernstone_qdrant.targets.stored import stored_point
from quernstone_qdrant.targets.translate import unchanged

if TYPE_CHECKING:
    from qdrant_client.models import Filter


class EdgeTarget(EdgeAccess):
    """One collection in a folder of Qdrant Edge. See `Target`.

    Only one process at a time can open a collection.

    Args:
        path: Folder of the collections, created if missing.
        collection: Name of the collection.

    Raises:
        ConfigError: The collection's name is empty.

    Examples:
        >>> import tempfile
        >>> from quernstone import Embedder
        >>> from quernstone_qdrant import QdrantLoader
        >>> from quernstone_qdrant.targets.edge import EdgeTarget
        >>> target = EdgeTarget(tempfile.mkdtemp(), "notes")
        >>> loader = QdrantLoader(target, "notes", Embedder("tiny"))
        >>> loader.load([{"id": "mill", "text": "A quern is a hand mill."}]).embedded
        1
    """

    def create_indexes(self, settings: CollectionSettings) -> list[str]:
        """See `Target.create_indexes`."""
        with self._failures("reading the indexes"):
            existing = self._shard().info().payload_schema
        schemas = field_schemas(settings)
        missing = [path for path in schemas if path not in existing]
        for path in missing:
            with self._failures(f"creating the index of {path}"):
                self._shard().update(edge.UpdateOperation.create_field_index(path, schemas[path]))
        return missing

    def change(self, settings: CollectionSettings, dimensions: int, names: Collection[str]) -> None:
        """See `Target.change`."""
        if "settings" not in self._description():
            raise CollectionError(
                self.collection,
                "it is the copy of another program's collection, which cannot be changed in Edge",
            )
        before = self.state().payload_indexes
        for path, kind in settings.fields().items() if "indexes" in names else ():
            if before.get(path, kind) != kind:
                with self._failures(f"replacing the index of {path}"):
                    self._shard().update(edge.UpdateOperation.delete_field_index(path))
        doing = f"changing {', '.join(sorted(names))}"
        self._reload(doing, settings=settings.to_json(), dimensions=dimensions)
        self.create_indexes(settings)

    def add_vector(self, settings: CollectionSettings, dimensions: int) -> None:
        """See `Target.add_vector`."""
        doing, new = f"adding the vector {settings.vector}", settings.vectors(dimensions)
        with self._failures(doing):
            for name, vector in new.items():
                self._shard().update(new_vector(name, vector))
        description = self._description()
        before = CollectionSettings.from_json(description["settings"])
        known = {**before.vectors(description["dimensions"]), **other_vectors(description), **new}
        self._reload(doing, others={name: asdict(vector) for name, vector in known.items()})

    def drop_vector(self, name: str, settings: CollectionSettings, dimensions: int) -> bool:
        """See `Target.drop_vector`."""
        if name in self.state().vectors:
            with self._failures(f"deleting the vector {name}"):
                self._shard().update(edge.UpdateOperation.delete_vector_name(name))
        with self._describing:
            description = self._description()
            changed = {"settings": settings.to_json(), "dimensions": dimensions}
            left = {
                other: asdict(vector)
                for other, vector in other_vectors(description).items()
                if other != name and other not in settings.vectors(dimensions)
            }
            self._describe({**description, **changed, "others": left})
        return True

    def payloads(
        self,
        ids: Sequence[str],
        fields: Sequence[str],
        *,
        every_replica: bool = True,  # noqa: ARG002 - Edge has one copy of each point
    ) -> dict[str, Payload]:
        """See `Target.payloads`."""
        if not ids:
            return {}
        with self._failures(f"reading {len(ids)} points"):
            found = self._shard().retrieve(native_ids(ids), _selector(fields), False)
        return {str(point.id): point.payload or {} for point in found}

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]
    ) -> None:
        """See `Target.upsert`."""
        with self._failures(f"writing {len(ids)} points"):
            check_room(self._home, written_bytes(payloads, vectors))
            batch = [
                edge.Point(point, point_vectors(vectors, place), payload)
                for place, (point, payload) in enumerate(
                    zip(native_ids(ids), payloads, strict=True)
                )
            ]
            self._shard().update(edge.UpdateOperation.upsert_points(batch))
            self._sync()

    def update(
        self,
        ids: Sequence[str],
        payloads: Sequence[Payload],
        vectors: Mapping[str, AnyVectorBatch],
        *,
        hashes: Sequence[str] = (),
    ) -> None:
        """See `Target.update`."""
        where = edge_filter(unchanged(hashes))
        with self._failures(f"changing {len(ids)} points"):
            check_room(self._home, written_bytes(payloads, vectors))
            for operation in update_operations(native_ids(ids), payloads, vectors, where):
                self._shard().update(operation)
            self._sync()

    def delete(self, ids: Sequence[str]) -> None:
        """See `Target.delete`."""
        with self._failures(f"deleting {len(ids)} points"):
            check_room(self._home, 0)
            self._shard().update(edge.UpdateOperation.delete_points(native_ids(ids)))
            self._sync()

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool | list[str] = False,
        batch: int = 256,
        where: Filter | None = None,
        start: str | None = None,
        every_replica: bool = True,  # noqa: ARG002
    ) -> Iterator[StoredPoint]:
        """See `Target.scroll`."""
        offset: Any = None if start is None else native_id(start)
        condition = edge_filter(where)
        while True:
            with self._failures("reading points"):
                found, offset = self._shard().scroll(
                    edge.ScrollRequest(
                        offset=offset,
                        limit=batch,
                        filter=condition,
                        with_payload=True if fields is None else _selector(fields),
                        with_vector=with_vectors,
                    )
                )
            for record in found:
                yield stored_point(record)
            if offset is None:
                return

    def count(self) -> int:
        """See `Target.count`."""
        with self._failures("counting the points"):
            return self._shard().count(edge.CountRequest())

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """See `Target.ignored`."""
        lacking = {"shards": settings.shards is not None, "replicas": settings.has_replicas}
        return [name for name, given in lacking.items() if given]

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[list[str]]:
        """See `Target.deferred_index`. Edge indexes only in `wait_for_index`."""
        ignored = "`defer_index` (`--defer-index`) is ignored: Edge indexes only after a load"
        return nullcontext([] if how == "none" else [ignored])

    def wait_for_index(
        self,
        timeout: float,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """See `Target.wait_for_index`. Until it runs, new points are searched without an index."""
        check_room_for_index(self._home / SHARD, self.state())
        # Close first: only one process can open the shard. `edge_optimize.py` explains why
        # indexing runs in a process of its own.
        self.close()
        try:
            failure = optimize_in_process(self._home / SHARD, timeout, progress)
        except subprocess.TimeoutExpired as late:
            raise TargetError(
                f"collection {self.collection!r} is not indexed after {timeout:g} s; its points "
                "are stored, and the next load continues indexing"
            ) from late
        if failure is not None:
            raise CollectionError(self.collection, f"indexing failed: {failure}")

    def check_features(self, features: Collection[Feature]) -> None:
        """See `Target.check_features`."""
        check_local(features, "Qdrant Edge", groups=False)

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """See `Target.query`."""
        return self.query_many([request])[0]

    def query_many(self, requests: Sequence[SearchRequest]) -> list[list[FoundPoint]]:
        """See `Target.query_many`."""
        with self._failures("searching"):
            shard = self._shard()
            batch = edge.QueryBatchRequest([query_request(each, shard) for each in requests])
            answers = shard.query_batch(batch)
        return [
            [found_point(point, request.using) for point in answer]
            for request, answer in zip(requests, answers, strict=True)
        ]

    def drop(self) -> None:
        """See `Target.drop`."""
        with self._failures("deleting the collection"):
            try:
                self._shard()
            except Exception as error:
                # A damaged collection can be deleted, one that is in use cannot.
                if is_locked(error) or isinstance(error, CollectionNotFoundError):
                    raise
            self.close()
            (self._home / DESCRIPTION).unlink()  # first: a collection exists while it has this file
            shutil.rmtree(self._home)


def _selector(fields: Sequence[str]) -> Any:
    return edge.PayloadSelector.Include(list(fields)) if fields else False

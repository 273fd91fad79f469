"""A collection in Qdrant Edge: Qdrant's own engine, with its HNSW and quantisation, in a folder.

A folder holds any number of collections, each in a folder of its own:

    <collection>/collection.json    what Edge has no place for: settings and metadata
    <collection>/shard/             Edge's files: a write-ahead log and segments

Edge writes every update to its log before it returns, so a process that is killed loses nothing
that `upsert` returned for: opening the shard replays the log. To be safe from a power failure, too,
files are synced every five seconds, at the end of a load and when it is closed: the same promise
as a server's. What is lost within these seconds, the next load finds missing.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import orjson

from quernstone.errors import ConfigError, MissingExtraError, QuernstoneError
from quernstone_qdrant.errors import CollectionError, CollectionNotFoundError, TargetError
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Rows
from quernstone_qdrant.targets.base import (
    CollectionState,
    FoundPoint,
    Payload,
    SearchRequest,
    StoredPoint,
    TargetKind,
    VectorState,
    scroll_start,
)

try:
    import qdrant_edge as edge

    from quernstone_qdrant.targets.edge_filters import edge_filter
    from quernstone_qdrant.targets.edge_translate import (
        field_schemas,
        point_vectors,
        query_request,
        shard_config,
    )
except ImportError as error:
    raise MissingExtraError("qdrant_edge", "edge", "quernstone-qdrant") from error

if TYPE_CHECKING:
    from qdrant_client.models import Filter

_DESCRIPTION = "collection.json"
_SHARD = "shard"
_SYNC_SECONDS = 5.0
"""A server's default (`flush_interval_sec`)."""
_WRITERS = 2
"""One that writes while the loader reads back what is there."""
_LOCK_SECONDS = 5.0
"""A process that was killed a moment ago may not have let go of its files yet."""
_OPTIMISER = Path(__file__).with_name("edge_optimise.py")


class EdgeTarget:
    """One collection in a folder of Qdrant Edge. See `Target`.

    Only one process at a time can have a collection open.

    Args:
        path: Folder of the collections, created when missing.
        collection: Name of the collection.

    Raises:
        ConfigError: The collection has no name.
        MissingExtraError: `qdrant-edge-py` is not installed (when the module is imported).

    Example:
        >>> import tempfile
        >>> from quernstone import Embedder
        >>> from quernstone_qdrant import QdrantLoader
        >>> from quernstone_qdrant.targets.edge import EdgeTarget
        >>> target = EdgeTarget(tempfile.mkdtemp(), "notes")
        >>> loader = QdrantLoader(target, "notes", Embedder("tiny"))
        >>> loader.load([{"id": "mill", "text": "A quern is a hand mill."}]).embedded
        1
    """

    def __init__(self, path: str | Path, collection: str) -> None:
        if not collection:
            raise ConfigError("the collection's name is empty")
        self.path, self.collection = Path(path), collection
        self.kind: TargetKind = "edge"
        self.writers = _WRITERS
        self._home = self.path / _folder_name(collection)
        self._opened: edge.EdgeShard | None = None
        self._opening = threading.Lock()
        self._synced = time.monotonic()

    def exists(self) -> bool:
        """See `Target.exists`."""
        return (self._home / _DESCRIPTION).is_file()

    def state(self) -> CollectionState:
        """See `Target.state`."""
        description = self._description()
        settings = CollectionSettings.from_json(description["settings"])
        with self._failures("reading the state"):
            points = self._shard().info().points_count
        return CollectionState(
            metadata=description["metadata"],
            points=points,
            vectors={
                name: VectorState(size=vector.size, distance=vector.distance)
                for name, vector in settings.vectors(description["dimensions"]).items()
            },
        )

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """See `Target.create`."""
        if self.exists():
            raise CollectionError(self.collection, "it exists")
        shard = self._home / _SHARD
        with self._failures("creating the collection"):
            if shard.exists():
                self._remove_unfinished(shard)
            shard.mkdir(parents=True)
            self._opened = edge.EdgeShard.create(str(shard), shard_config(settings, dimensions))
            self._opened.flush()
        # The description comes last: without it there is no collection.
        self._describe(
            {"settings": settings.to_json(), "dimensions": dimensions, "metadata": dict(metadata)}
        )

    def create_indexes(self, settings: CollectionSettings) -> None:
        """See `Target.create_indexes`."""
        with self._failures("reading the indexes"):
            there = self._shard().info().payload_schema
        for name, schema in field_schemas(settings).items():
            if name not in there:
                with self._failures(f"creating the index of {name}"):
                    self._shard().update(edge.UpdateOperation.create_field_index(name, schema))

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """See `Target.describe`."""
        description = self._description()
        self._describe({**description, "metadata": {**description["metadata"], **metadata}})

    def payloads(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        """See `Target.payloads`."""
        if not ids:
            return {}
        with self._failures(f"reading {len(ids)} points"):
            found = self._shard().retrieve(list(ids), _wanted(fields), False)
        return {str(point.id): point.payload or {} for point in found}

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, Rows]
    ) -> None:
        """See `Target.upsert`."""
        with self._failures(f"writing {len(ids)} points"):
            batch = [
                edge.Point(point, point_vectors(vectors, place), payload)
                for place, (point, payload) in enumerate(zip(ids, payloads, strict=True))
            ]
            self._shard().update(edge.UpdateOperation.upsert_points(batch))
            self._sync()

    def delete(self, ids: Sequence[str]) -> None:
        """See `Target.delete`."""
        with self._failures(f"deleting {len(ids)} points"):
            self._shard().update(edge.UpdateOperation.delete_points(list(ids)))
            self._sync()

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool = False,
        batch: int = 256,
        where: Filter | None = None,
        start: str | None = None,
    ) -> Iterator[StoredPoint]:
        """See `Target.scroll`."""
        offset: Any = scroll_start(start)
        condition = edge_filter(where)
        while True:
            with self._failures("reading points"):
                found, offset = self._shard().scroll(
                    edge.ScrollRequest(
                        offset=offset,
                        limit=batch,
                        filter=condition,
                        with_payload=True if fields is None else _wanted(fields),
                        with_vector=with_vectors,
                    )
                )
            for record in found:
                yield StoredPoint(
                    id=str(record.id), payload=record.payload or {}, vectors=_dense(record.vector)
                )
            if offset is None:
                return

    def count(self) -> int:
        """See `Target.count`."""
        with self._failures("counting the points"):
            return self._shard().count(edge.CountRequest())

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """See `Target.ignored`."""
        return [] if settings.shards is None else ["shards"]

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[None]:  # noqa: ARG002
        """See `Target.deferred_index`. Only `wait_for_index` indexes."""
        return nullcontext()

    def wait_for_index(self, timeout: float) -> None:
        """See `Target.wait_for_index`. Until it has run, new points are searched one by one."""
        self.close()  # one process at a time; see `edge_optimise.py` for why it is another one
        command = [sys.executable, str(_OPTIMISER), str(self._home / _SHARD), str(os.getpid())]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=None if math.isinf(timeout) else timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise TargetError(
                f"collection {self.collection!r} is not indexed after {timeout:g} s; its points "
                "are all there, and the next load goes on"
            ) from late
        if done.returncode != 0:
            why = done.stderr.strip().splitlines()
            raise CollectionError(
                self.collection, f"it cannot be indexed: {why[-1] if why else done.returncode}"
            )

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """See `Target.query`."""
        with self._failures("searching"):
            found = self._shard().query(query_request(request))
        return [
            FoundPoint(
                id=str(point.id),
                score=float(point.score),
                payload=point.payload or {},
                vector=_dense(point.vector).get(request.using),
            )
            for point in found
        ]

    def close(self) -> None:
        """See `Target.close`. What is used afterwards is opened again."""
        if self._opened is not None:
            shard, self._opened = self._opened, None
            with self._failures("closing the files"):
                shard.flush()
                shard.close()

    def _shard(self) -> edge.EdgeShard:
        with self._opening:
            if self._opened is None:
                self._description()  # or there is no such collection
                self._opened = _load(self._home / _SHARD)
            return self._opened

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced >= _SYNC_SECONDS:
            self._shard().flush()
            self._synced = now

    def _remove_unfinished(self, shard: Path) -> None:
        """Remove what a process left that was killed while it made the collection."""
        if (shard / "edge_config.json").exists():
            _load(shard).close()  # fails where another process is at work
        shutil.rmtree(shard)

    def _description(self) -> dict[str, Any]:
        try:
            content = (self._home / _DESCRIPTION).read_bytes()
        except FileNotFoundError:
            raise CollectionNotFoundError(self.collection, edge_collections(self.path)) from None
        with self._failures("reading the description"):
            description: dict[str, Any] = orjson.loads(content)
        return description

    def _describe(self, description: Mapping[str, Any]) -> None:
        """Replace the description, so that a crash leaves the old one or the new one."""
        new, final = self._home / f"{_DESCRIPTION}.new", self._home / _DESCRIPTION
        with self._failures("writing the description"):
            with new.open("wb") as file:
                file.write(orjson.dumps(description, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            new.replace(final)
            _sync_folder(self._home)

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Turn what Edge raises into a `TargetError` that says what was being done."""
        try:
            yield
        except QuernstoneError:
            raise
        # Edge has no errors of its own: whatever goes wrong in the engine is a bare `Exception`.
        except Exception as error:
            if _is_locked(error):
                raise TargetError(
                    f"collection {self.collection!r} in {str(self.path)!r} is in use by another "
                    "process; Edge lets one at a time open it"
                ) from error
            raise TargetError(
                f"Qdrant Edge failed at {doing} (collection {self.collection!r}): {error}"
            ) from error


def _load(shard: Path) -> edge.EdgeShard:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return edge.EdgeShard.load(str(shard))
        except Exception as error:  # noqa: PERF203 - a bare one is all that Edge raises
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_SECONDS / 50)


def _is_locked(error: Exception) -> bool:
    return "WouldBlock" in str(error)


def edge_collections(path: str | Path) -> list[str]:
    """Names of the collections in a folder, in order; none where there is no such folder."""
    found = Path(path).glob(f"*/{_DESCRIPTION}")
    return sorted(unquote(description.parent.name) for description in found)


def _folder_name(collection: str) -> str:
    """A name that every file system takes, and that does not lead out of the folder."""
    return quote(collection, safe="").replace(".", "%2E")


def _wanted(fields: Sequence[str]) -> Any:
    return edge.PayloadSelector.Include(list(fields)) if fields else False


def _dense(stored: Any) -> dict[str, Any]:
    named = stored if isinstance(stored, dict) else {"": stored} if stored is not None else {}
    return {
        name: np.asarray(vector, dtype=np.float32)
        for name, vector in named.items()
        if isinstance(vector, list)  # a sparse one is made anew whenever a point is written
    }


def _sync_folder(path: Path) -> None:
    """Make a rename in a folder outlast a power failure. Windows cannot, and need not."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

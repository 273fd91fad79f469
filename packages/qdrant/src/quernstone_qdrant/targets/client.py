"""A collection reached through `qdrant_client`: embedded, or on a server over REST or gRPC.

Only this module and `targets/errors.py` know what these clients return and raise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException
from qdrant_client.local.qdrant_local import QdrantLocal

from quernstone_qdrant.documents.bm25 import SparseVector
from quernstone_qdrant.errors import CollectionNotFoundError, TargetError, TransientError
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
from quernstone_qdrant.targets.errors import CLIENT_ERRORS, classify
from quernstone_qdrant.targets.indexing import (
    IndexConfig,
    deferred_index,
    index_arguments,
    index_config,
    wait_until_green,
)
from quernstone_qdrant.targets.translate import (
    batch_rows,
    embedded_points,
    graph_config,
    key_index,
    knows_memory,
    query_arguments,
    sparse_config,
    text_index,
    vectors_config,
)

_TIMEOUT = 60
"""Seconds. The client's default of 5 s is too short for a bulk write that waits for completion."""
_SERVER_WRITERS = 4
"""Qdrant's guide to bulk uploads recommends 2 to 4 parallel write streams."""


def connect(
    *,
    path: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    prefer_grpc: bool = False,
) -> QdrantClient:
    """Open an embedded Qdrant in a folder, or connect to a server.

    Args:
        path: Folder of the embedded Qdrant, created if missing; `:memory:` stores nothing on disk.
        url: Address of a server. Pass exactly one of `path` and `url`.
        api_key: API key for the server.
        prefer_grpc: Use gRPC, which sends a third of the bytes. Its port, 6334, must be reachable
            in addition to that of `url`.

    Raises:
        TargetError: Another process has the folder open, or the address is not valid.
    """
    try:
        if url is not None:
            return QdrantClient(
                url=url,
                api_key=api_key,
                prefer_grpc=prefer_grpc,
                timeout=_TIMEOUT,
                check_compatibility=False,
            )
        if path == ":memory:":
            return QdrantClient(":memory:")
        return QdrantClient(path=path)
    except RuntimeError as error:
        raise TargetError(
            f"the folder {path!r} is in use by another process: end that process, or run a Qdrant "
            "server and pass its address (`--url`)"
        ) from error
    except (OSError, ValueError) as error:
        raise TargetError(f"cannot open {url or path!r}: {error}") from error


class ClientTarget:
    """One collection reached through a `QdrantClient`. See `Target`."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self.client, self.collection = client, collection
        embedded = isinstance(client._client, QdrantLocal)
        self.kind: TargetKind = "embedded" if embedded else "server"
        # The embedded client has no locks, and only the thread that opened its SQLite file may
        # use it.
        self.writers = 1 if embedded else _SERVER_WRITERS

    @functools.cached_property
    def _memory(self) -> bool:
        """True if the server takes the option `memory` instead of `on_disk`."""
        if self.kind != "server":
            return False
        try:
            version = self.client.info().version
        except (ApiException, ValueError):
            return False  # a gateway may hide the version; every server accepts `on_disk`
        return knows_memory(version)

    def exists(self) -> bool:
        """See `Target.exists`."""
        with self._failures("looking for the collection"):
            return self.client.collection_exists(self.collection)

    def state(self) -> CollectionState:
        """See `Target.state`."""
        if not self.exists():
            with self._failures("listing the collections"):
                names = [found.name for found in self.client.get_collections().collections]
            raise CollectionNotFoundError(self.collection, sorted(names))
        with self._failures("reading the configuration"):
            return _state(self.client.get_collection(self.collection))

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """See `Target.create`."""
        with self._failures("creating the collection"):
            self.client.create_collection(
                self.collection,
                vectors_config=vectors_config(settings, dimensions, memory=self._memory),
                sparse_vectors_config=sparse_config(settings),
                hnsw_config=graph_config(settings),
                shard_number=settings.shards,
                metadata=dict(metadata),
            )

    def create_indexes(self, settings: CollectionSettings) -> None:
        """See `Target.create_indexes`."""
        schemas: dict[str, Any] = {}
        if self.kind == "server":  # the embedded client filters without an index
            schemas = dict(settings.fields())
            for name in settings.key_fields():
                schemas[name] = key_index(memory=self._memory)
        if settings.bm25 == "text":
            schemas[settings.text_field] = text_index(settings, embedded=self.kind == "embedded")
        for name, schema in schemas.items():
            with self._failures(f"creating the index of {name}"):
                self.client.create_payload_index(
                    self.collection, field_name=name, field_schema=schema, wait=True
                )

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """See `Target.describe`."""
        with self._failures("writing the metadata"):
            self.client.update_collection(self.collection, metadata=dict(metadata))

    def payloads(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        """See `Target.payloads`."""
        if not ids:
            return {}
        with self._failures(f"reading {len(ids)} points"):
            found = self.client.retrieve(
                self.collection, ids=list(ids), with_payload=list(fields), with_vectors=False
            )
        return {str(point.id): point.payload or {} for point in found}

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, Rows]
    ) -> None:
        """See `Target.upsert`."""
        points: list[models.PointStruct] | models.Batch
        if self.kind == "embedded":
            points = embedded_points(ids, payloads, vectors)
        else:
            rows = {name: batch_rows(part) for name, part in vectors.items()}
            points = models.Batch(
                ids=list(ids),
                vectors=rows[""] if list(rows) == [""] else rows,
                payloads=list(payloads),
            )
        self._apply(
            f"writing {len(ids)} points",
            lambda: self.client.upsert(self.collection, points=points, wait=True),
        )

    def delete(self, ids: Sequence[str]) -> None:
        """See `Target.delete`."""
        self._apply(
            f"deleting {len(ids)} points",
            lambda: self.client.delete(
                self.collection, points_selector=models.PointIdsList(points=list(ids)), wait=True
            ),
        )

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool | Sequence[str] = False,
        batch: int = 256,
        where: models.Filter | None = None,
        start: str | None = None,
    ) -> Iterator[StoredPoint]:
        """See `Target.scroll`."""
        offset: Any = scroll_start(start)
        while True:
            with self._failures("reading points"):
                found, offset = self.client.scroll(
                    self.collection,
                    scroll_filter=where,
                    limit=batch,
                    offset=offset,
                    with_payload=True if fields is None else list(fields),
                    with_vectors=with_vectors,
                )
            for record in found:
                yield StoredPoint(
                    id=str(record.id),
                    payload=record.payload or {},
                    vectors=_vectors(record.vector),
                    sparse=_sparse(record.vector),
                )
            if offset is None:
                return

    def count(self) -> int:
        """See `Target.count`."""
        with self._failures("counting the points"):
            return self.client.count(self.collection, exact=True).count

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """See `Target.query`."""
        with self._failures("searching"):
            found = self.client.query_points(
                self.collection, **query_arguments(request, embedded=self.kind == "embedded")
            ).points
        return [
            FoundPoint(
                id=str(point.id),
                score=float(point.score),
                payload=point.payload or {},
                vector=_vectors(point.vector).get(request.using),
            )
            for point in found
        ]

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """See `Target.ignored`."""
        return settings.needs_server() if self.kind == "embedded" else []

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[None]:
        """See `Target.deferred_index`."""
        return deferred_index(self, how) if self.kind == "server" else nullcontext()

    def wait_for_index(self, timeout: float) -> None:
        """See `Target.wait_for_index`. The embedded client has no index."""
        if self.kind == "server":
            wait_until_green(self, timeout)

    def read_index(self) -> IndexConfig:
        """Read the settings that decide when and how densely the vectors are indexed."""
        with self._failures("reading the configuration"):
            return index_config(self.client.get_collection(self.collection).config)

    def change_index(self, config: IndexConfig) -> None:
        """Set the values of `config` that are not None."""
        with self._failures("changing the index settings"):
            self.client.update_collection(self.collection, **index_arguments(config))

    def close(self) -> None:
        """See `Target.close`."""
        self.client.close()

    def _apply(self, doing: str, request: Callable[[], models.UpdateResult]) -> None:
        with self._failures(doing):
            status = request().status
        if status != models.UpdateStatus.COMPLETED:
            raise TransientError(
                f"Qdrant answered {status.value!r} instead of 'completed' to {doing} "
                f"(collection {self.collection!r})"
            )

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Convert exceptions of the clients to a `TargetError` that names the operation."""
        try:
            yield
        except CLIENT_ERRORS as error:
            failure = f"Qdrant failed at {doing} (collection {self.collection!r})"
            raise classify(error, failure) from error


def _state(info: models.CollectionInfo) -> CollectionState:
    config = info.config
    params = config.params.vectors or {}
    named = {"": params} if isinstance(params, models.VectorParams) else params
    strict = config.strict_mode_config
    return CollectionState(
        metadata=config.metadata or {},
        points=info.points_count or 0,
        vectors={
            name: VectorState(size=vector.size, distance=vector.distance.value)
            for name, vector in named.items()
        },
        status=info.status.value,
        failure=getattr(info.optimizer_status, "error", None),
        queued=info.update_queue.length if info.update_queue else 0,
        max_batch=strict.upsert_max_batchsize if strict and strict.enabled else None,
    )


def _vectors(stored: Any) -> dict[str, Any]:
    named = stored if isinstance(stored, dict) else {"": stored} if stored is not None else {}
    return {
        name: np.asarray(vector, dtype=np.float32)
        for name, vector in named.items()
        if isinstance(vector, list)
    }


def _sparse(stored: Any) -> dict[str, SparseVector]:
    named = stored if isinstance(stored, dict) else {}
    return {
        name: SparseVector(vector.indices, vector.values)
        for name, vector in named.items()
        if hasattr(vector, "indices")
    }

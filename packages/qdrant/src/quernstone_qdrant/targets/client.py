"""A collection reached through `qdrant_client`: embedded, or on a server over REST or gRPC.

Only this module and `targets/errors.py` know what these clients return and raise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.qdrant_remote import QdrantRemote

from quernstone_qdrant.documents.layouts import HASH_FIELD
from quernstone_qdrant.errors import (
    CollectionError,
    LimitError,
    TargetError,
    TransientError,
)
from quernstone_qdrant.settings import AnyVectorBatch, CollectionSettings, DeferIndex
from quernstone_qdrant.targets.access import CollectionAccess
from quernstone_qdrant.targets.base import (
    METADATA_KEY,
    CollectionState,
    IndexConfig,
    Payload,
    StoredPoint,
    native_id,
    native_ids,
)
from quernstone_qdrant.targets.configuration import (
    ADDS_VECTORS_SINCE,
    change_arguments,
    index_arguments,
    new_vector,
    too_new,
    version_of,
)
from quernstone_qdrant.targets.deferred_indexing import deferred_index
from quernstone_qdrant.targets.errors import CLIENT_ERRORS
from quernstone_qdrant.targets.features import check_local, check_version
from quernstone_qdrant.targets.indexing import running_optimizations, wait_until_green
from quernstone_qdrant.targets.queries import (
    batched,
    found_point,
    group_arguments,
    grouped_points,
    query_arguments,
    read_arguments,
)
from quernstone_qdrant.targets.requests import Feature, FoundPoint, SearchRequest
from quernstone_qdrant.targets.stored import stored_point
from quernstone_qdrant.targets.strict_mode import check_new_indexes, needs_index
from quernstone_qdrant.targets.translate import (
    embedded_points,
    field_index,
    graph_config,
    key_index,
    sparse_config,
    storage_config,
    text_index,
    unchanged,
    update_operations,
    vectors_config,
)
from quernstone_qdrant.targets.writes import grpc_points, upsert_rest

_SERVER_WRITERS = 4
"""Qdrant's guide to bulk uploads recommends 2 to 4 parallel write streams."""


class ClientTarget(CollectionAccess):
    """One collection reached through a `QdrantClient`. See `Target`."""

    close_count = 0

    def __init__(self, client: QdrantClient, collection: str) -> None:
        super().__init__(client, collection)
        # The embedded client has no locks, and only the thread that opened its SQLite file may
        # use it.
        self.writers = 1 if self.kind == "embedded" else _SERVER_WRITERS

    def create(
        self, settings: CollectionSettings, dimensions: int, metadata: Mapping[str, Any]
    ) -> None:
        """See `Target.create`."""
        self._check_version(settings)
        try:
            with self._failures("creating the collection"):
                self._management.create_collection(
                    self.collection,
                    vectors_config=vectors_config(settings, dimensions, memory=self._memory),
                    sparse_vectors_config=sparse_config(settings) or None,
                    hnsw_config=graph_config(settings),
                    metadata=dict(metadata),
                    **storage_config(settings),
                )
        except TransientError:
            raise
        except TargetError:
            if not self.exists():
                raise
        self._has_record = METADATA_KEY in metadata

    def create_indexes(self, settings: CollectionSettings) -> list[str]:
        """See `Target.create_indexes`. A server with points builds them in the background."""
        state = self.state()
        missing = self._missing_indexes(settings, state)
        check_new_indexes(self.collection, state, list(missing))
        for path, schema in missing.items():
            self._create_index(path, schema, wait=not state.points)
        return list(missing)

    def _missing_indexes(
        self, settings: CollectionSettings, state: CollectionState
    ) -> dict[str, Any]:
        """Return the payload indexes of the settings that do not exist yet, by path."""
        if self.kind == "embedded" and state.points:
            return {}  # it does not list its indexes, and keeps them
        schemas: dict[str, Any] = {}
        if self.kind == "server":  # the embedded client filters without an index
            schemas = {path: field_index(kind) for path, kind in settings.fields().items()}
            for name in settings.key_fields():
                schemas[name] = key_index(memory=self._memory)
        if settings.bm25 == "text":
            schemas[settings.text_field] = text_index(settings, embedded=self.kind == "embedded")
        return {path: schemas[path] for path in schemas if path not in state.payload_indexes}

    def change(self, settings: CollectionSettings, dimensions: int, names: Collection[str]) -> None:
        """See `Target.change`. The embedded client has only the vectors of these settings."""
        self._check_version(settings)
        state = self.state()
        check_new_indexes(self.collection, state, list(self._missing_indexes(settings, state)))
        wanted = [*settings.vectors(dimensions), *sparse_config(settings)]
        for name in wanted:
            if name not in state.vectors and name not in state.sparse:
                self._add_vector(name, new_vector(settings, dimensions, name))
        arguments = change_arguments(settings, dimensions, names, memory=self._memory)
        if arguments and self.kind == "server":
            with self._failures(f"changing {', '.join(sorted(names))}"):
                self._management.update_collection(self.collection, **arguments)
        for path, kind in settings.fields().items():
            if state.payload_indexes.get(path, kind) != kind:
                with self._failures(f"replacing the index of {path}"):
                    self._management.delete_payload_index(self.collection, path)
        self.create_indexes(settings)

    def add_vector(self, settings: CollectionSettings, dimensions: int) -> None:
        """See `Target.add_vector`."""
        self.change(settings, dimensions, ["quantization", "on_disk"])

    def drop_vector(self, name: str, settings: CollectionSettings, dimensions: int) -> bool:  # noqa: ARG002
        """See `Target.drop_vector`."""
        state = self.state()
        if HASH_FIELD in state.payload_indexes:
            with self._failures(f"deleting the index of {HASH_FIELD}"):
                self._management.delete_payload_index(self.collection, HASH_FIELD)
        if name not in state.vectors:
            return True
        if name or self.kind == "embedded":
            with self._failures(f"deleting the vector {name}"):
                self._management.delete_vector_name(self.collection, name)
            return True
        # A request cannot name the unnamed vector, which is part of the path.
        where = models.Filter(must=[models.HasVectorCondition(has_vector=name)])
        self._apply(
            "deleting the unnamed vector of all points",
            lambda: self._points("write").delete_vectors(
                self.collection, vectors=[name], points=where, wait=True
            ),
        )
        return False

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """See `Target.describe`."""
        with self._failures("writing the metadata"):
            self._management.update_collection(self.collection, metadata=dict(metadata))
        self._has_record = self._has_record or METADATA_KEY in metadata

    def payloads(
        self, ids: Sequence[str], fields: Sequence[str], *, every_replica: bool = True
    ) -> dict[str, Payload]:
        """See `Target.payloads`."""
        if not ids:
            return {}
        with self._failures(f"reading {len(ids)} points"), self._replicas(every_replica) as how:
            found = self._points("read").retrieve(
                self.collection,
                ids=native_ids(ids),
                with_payload=list(fields),
                with_vectors=False,
                consistency=how,
            )
        return {str(point.id): point.payload or {} for point in found}

    def upsert(
        self, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]
    ) -> None:
        """See `Target.upsert`."""
        remote, native = self.client._client, native_ids(ids)

        def request() -> models.UpdateResult:
            client = self._points("write")
            if isinstance(remote, QdrantRemote) and not remote._prefer_grpc:
                return upsert_rest(remote, self.collection, native, payloads, vectors)
            convert = embedded_points if self.kind == "embedded" else grpc_points
            points: Any = convert(native, payloads, vectors)
            return client.upsert(self.collection, points=points, wait=True)

        self._apply(f"writing {len(ids)} points", request)

    def update(
        self,
        ids: Sequence[str],
        payloads: Sequence[Payload],
        vectors: Mapping[str, AnyVectorBatch],
        *,
        hashes: Sequence[str] = (),
    ) -> None:
        """See `Target.update`."""
        operations = update_operations(native_ids(ids), payloads, vectors, unchanged(hashes))

        def request() -> models.UpdateResult:
            results = self._points("write").batch_update_points(
                self.collection, operations, wait=True
            )
            unfinished = (r for r in results if r.status != models.UpdateStatus.COMPLETED)
            return next(unfinished, results[-1])

        doing = f"changing {len(ids)} points"
        try:
            self._apply(doing, request)
        except TargetError as error:
            if not hashes or not needs_index(str(error)):
                raise
            self._index_hashes()
            self._apply(doing, request)

    def delete(self, ids: Sequence[str]) -> None:
        """See `Target.delete`."""
        self._apply(
            f"deleting {len(ids)} points",
            lambda: self._points("write").delete(
                self.collection,
                points_selector=models.PointIdsList(points=native_ids(ids)),
                wait=True,
            ),
        )

    def scroll(
        self,
        fields: Sequence[str] | None,
        *,
        with_vectors: bool | list[str] = False,
        batch: int = 256,
        where: models.Filter | None = None,
        start: str | None = None,
        every_replica: bool = True,
    ) -> Iterator[StoredPoint]:
        """See `Target.scroll`."""
        offset: Any = None if start is None else native_id(start)
        while True:
            try:
                with self._failures("reading points"), self._replicas(every_replica) as how:
                    found, offset = self._points("read").scroll(
                        self.collection,
                        scroll_filter=where,
                        limit=batch,
                        offset=offset,
                        with_payload=True if fields is None else list(fields),
                        with_vectors=with_vectors,
                        consistency=how,
                    )
            except LimitError:
                if batch == 1:
                    raise
                batch = min(self.state().limits.query or batch, batch // 2)
                continue
            for record in found:
                yield stored_point(record)
            if offset is None:
                return

    def count(self) -> int:
        """See `Target.count`."""
        try:
            with self._failures("counting the points"):
                return self._points("read").count(self.collection, exact=True).count
        except LimitError:  # strict mode may forbid exact counts
            return sum(1 for _ in self.scroll([], batch=1000))

    def check_features(self, features: Collection[Feature]) -> None:
        """See `Target.check_features`."""
        if self.kind == "embedded":
            check_local(features, "the embedded client")
        elif features:
            check_version(features, self.version)

    def query(self, request: SearchRequest) -> list[FoundPoint]:
        """See `Target.query`."""
        arguments = query_arguments(request, embedded=self.kind == "embedded")
        arguments |= read_arguments(request)
        groups = request.groups
        with self._failures("searching"):
            client = self._points("read")
            if groups is None:
                found = client.query_points(self.collection, **arguments).points
                return [found_point(point, request.using) for point in found]
            arguments |= group_arguments(groups)
            grouped = client.query_points_groups(self.collection, **arguments).groups
        return grouped_points(grouped, request.using)

    def query_many(self, requests: Sequence[SearchRequest]) -> list[list[FoundPoint]]:
        """See `Target.query_many`."""
        if not requests:
            return []
        with self._failures(f"searching for {len(requests)} queries"):
            answers = self._points("read").query_batch_points(
                self.collection,
                [batched(each, embedded=self.kind == "embedded") for each in requests],
                **read_arguments(requests[0]),
            )
        return [
            [found_point(point, request.using) for point in answer.points]
            for request, answer in zip(requests, answers, strict=True)
        ]

    def ignored(self, settings: CollectionSettings) -> list[str]:
        """See `Target.ignored`."""
        return settings.ignored_by_embedded() if self.kind == "embedded" else []

    def deferred_index(self, how: DeferIndex) -> AbstractContextManager[list[str]]:
        """See `Target.deferred_index`."""
        if self.kind == "server":
            return deferred_index(self, how)
        ignored = "`defer_index` (`--defer-index`) is ignored: the embedded client has no index"
        return nullcontext([] if how == "none" else [ignored])

    def wait_for_index(
        self, timeout: float, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """See `Target.wait_for_index`. The embedded client has no index."""
        if self.kind == "server":
            wait_until_green(self, timeout, progress=progress)

    def optimizations(self) -> str:
        """Describe what the server's optimizer runs; empty if it runs nothing or does not say."""
        try:
            return running_optimizations(self._management.get_optimizations(self.collection))
        except CLIENT_ERRORS:  # servers before 1.17 do not say
            return ""

    def change_index(self, config: IndexConfig) -> None:
        """Set the values of `config` that are not None."""
        with self._failures("changing the index settings"):
            self._management.update_collection(self.collection, **index_arguments(config))

    def drop(self) -> None:
        """See `Target.drop`."""
        pinned = self.pinned().collection
        if pinned != self.collection:
            raise TargetError(
                f"{self.collection!r} is an alias of the collection {pinned!r}: delete that one"
            )
        with self._failures("deleting the collection"):
            self._management.delete_collection(self.collection)

    def close(self) -> None:
        """See `Target.close`."""
        self.client.close()

    def _add_vector(self, name: str, config: Any) -> None:
        if self.kind == "server" and (version_of(self.version) or (0, 0)) < ADDS_VECTORS_SINCE:
            raise CollectionError(
                self.collection,
                f"it lacks the vector `{name}`, which a server can add from Qdrant 1.18 on; this "
                f"one is {self.version or 'of an unknown version'}: upgrade it, or use another "
                "collection",
            )
        with self._failures(f"adding the vector {name}"):
            self._management.create_vector_name(self.collection, name, config)

    def _check_version(self, settings: CollectionSettings) -> None:
        lacking = too_new(settings, self.version)
        if lacking:
            raise CollectionError(
                self.collection,
                f"{'; '.join(lacking)}: use other settings, or upgrade the server",
            )

    def _apply(self, doing: str, request: Callable[[], models.UpdateResult]) -> None:
        with self._failures(doing):
            status = request().status
        if status != models.UpdateStatus.COMPLETED:
            raise TransientError(
                f"Qdrant answered {status.value!r} instead of 'completed' to {doing} "
                f"(collection {self.collection!r})"
            )

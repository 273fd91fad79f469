"""Access a collection through qdrant-client: resolve its name, choose replicas and ports.

Everything except points is read and written over REST.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.local.qdrant_local import QdrantLocal
from qdrant_client.qdrant_remote import QdrantRemote

from quernstone_qdrant.documents.layouts import HASH_FIELD
from quernstone_qdrant.errors import (
    CollectionError,
    CollectionNotFoundError,
    ReplicaError,
    TargetError,
    TransientError,
)
from quernstone_qdrant.targets.base import METADATA_KEY, CollectionState, TargetKind
from quernstone_qdrant.targets.configuration import collection_state, too_new_for, version_of
from quernstone_qdrant.targets.connection import check_grpc_port, rest_only
from quernstone_qdrant.targets.errors import CLIENT_ERRORS, classify
from quernstone_qdrant.targets.schema import (
    CollectionSchema,
    creation_arguments,
    reported_settings,
    schema_of,
)
from quernstone_qdrant.targets.strict_mode import check_new_indexes
from quernstone_qdrant.targets.translate import MEMORY_SINCE, key_index

_SETTLE_SECONDS, _CONSENSUS_SECONDS = 5.0, 60.0
"""Seconds that a node of a cluster may take to show a collection's metadata. The second limit
applies if this package is known to have stored metadata."""
_POLL_SECONDS = 0.1


AnyAccess = TypeVar("AnyAccess", bound="CollectionAccess")


class CollectionAccess:
    """The part of `ClientTarget` that finds a collection, by its name or an alias."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self.client, self.collection = client, collection
        remote = client._client
        embedded = isinstance(remote, QdrantLocal)
        self.kind: TargetKind = "embedded" if embedded else "server"
        self._management: QdrantClient | QdrantRemote = client
        """The client for everything except points: always over REST if it is a server's."""
        self._unchecked: set[Literal["read", "write"]] = set()
        """Kinds of gRPC requests before which the port must be compared with the REST address."""
        self._checking = threading.Lock()
        self._has_record = False
        """True once this package's metadata was read or written: if it is missing, wait for it."""
        self._settled = True
        """False after `pinned`, until the collection has had time to show its metadata."""
        if isinstance(remote, QdrantRemote):
            self._management = rest_only(remote)
            if remote._prefer_grpc:
                self._unchecked = {"read", "write"}

    def pinned(self: AnyAccess) -> AnyAccess:
        """See `Target.pinned`. If the API key may not list aliases, the name is taken as is."""
        try:
            with self._failures("reading the aliases"):
                aliases = self._management.get_aliases().aliases
        except TransientError:
            raise
        except TargetError:
            aliases = []
        names = {alias.alias_name: alias.collection_name for alias in aliases}
        name = names.get(self.collection)
        pinned = self if name is None else type(self)(self.client, name)
        pinned._settled = False
        return pinned

    @functools.cached_property
    def version(self) -> str | None:
        """Version of the server; None for the embedded client, or if a gateway hides it."""
        if self.kind != "server":
            return None
        try:
            with self._failures("reading the version"):
                return self._management.info().version or None
        except TransientError:
            raise
        except TargetError:
            return None

    @property
    def _memory(self) -> bool:
        """True if the server takes the option `memory`; every server accepts `on_disk`."""
        return (version_of(self.version) or (0, 0)) >= MEMORY_SINCE

    def schema(self) -> CollectionSchema:
        """See `Target.schema`. The embedded client reports no payload indexes."""
        with self._failures("reading the configuration"):
            info = self._management.get_collection(self.collection)
        schema = schema_of(info, embedded=self.kind == "embedded")
        if self.kind == "embedded":
            return schema
        return replace(schema, reported=reported_settings(info.config))

    def create_like(self, schema: CollectionSchema, metadata: Mapping[str, Any]) -> list[str]:
        """See `Target.create_like`. The embedded client keeps settings that it does not use."""
        if self.kind == "embedded":
            if not self.exists():
                self._create_from(schema.with_own_settings(), metadata)
            return [f"the payload index of {path!r}" for path in schema.indexes]
        lacking = too_new_for(schema, metadata, self.version)
        if lacking:
            raise CollectionError(
                self.collection, f"the server cannot have {', '.join(lacking)}: upgrade it"
            )
        wanted = schema if self._memory else schema.for_older()
        if not self.exists():
            self._create_from(wanted, metadata)
        state = self.state()
        missing = [path for path in wanted.indexes if path not in state.payload_indexes]
        check_new_indexes(self.collection, state, missing)
        for path, index in wanted.indexes.items():
            if path in missing:
                self._create_index(path, index, wait=not state.points)
        return []

    def _create_from(self, schema: CollectionSchema, metadata: Mapping[str, Any]) -> None:
        arguments = creation_arguments(schema)
        if metadata:
            arguments["metadata"] = dict(metadata)
        try:
            with self._failures("creating the collection"):
                self._management.create_collection(self.collection, **arguments)
        except TransientError:
            raise
        except TargetError:  # perhaps the answer to an earlier request was lost
            if not self.exists():
                raise

    def _create_index(self, path: str, schema: Any, *, wait: bool) -> None:
        with self._failures(f"creating the index of {path}"):
            self._management.create_payload_index(
                self.collection, field_name=path, field_schema=schema, wait=wait
            )

    def _index_hashes(self) -> None:
        """Create the index that strict mode requires for updates under a condition."""
        state = self.state()
        if HASH_FIELD not in state.payload_indexes:
            check_new_indexes(self.collection, state, [HASH_FIELD])
            self._create_index(HASH_FIELD, key_index(memory=self._memory), wait=True)

    def take_alias(self, alias: str) -> None:
        """Point an alias to this collection, atomically, whatever it pointed to before."""
        operations: list[models.AliasOperations] = []
        with self._failures(f"switching the alias {alias!r}"):
            if any(known.alias_name == alias for known in self._management.get_aliases().aliases):
                delete = models.DeleteAlias(alias_name=alias)
                operations.append(models.DeleteAliasOperation(delete_alias=delete))
            create = models.CreateAlias(collection_name=self.collection, alias_name=alias)
            operations.append(models.CreateAliasOperation(create_alias=create))
            self._management.update_collection_aliases(operations)

    def drop(self) -> None:
        """Delete the collection; do nothing if it does not exist."""
        with self._failures("deleting the collection"):
            self._management.delete_collection(self.collection)

    @functools.cached_property
    def replicas(self) -> int:
        """Number of copies of each point that the server keeps."""
        if self.kind == "embedded":
            return 1
        return self._described().replicas

    @contextmanager
    def _replicas(self, every_replica: bool) -> Iterator[models.ReadConsistencyType | None]:
        """Yield the consistency of a read; convert its failure if a replica may be the cause."""
        if not every_replica or self.replicas == 1:
            yield None
            return
        try:
            with self._failures("reading every replica"):
                yield models.ReadConsistencyType.ALL
        except TransientError as error:
            raise ReplicaError(error.message, error.delay) from error

    def _points(self, use: Literal["read", "write"]) -> QdrantClient:
        """Return the client for points, after checking that its gRPC port is the server's."""
        if use in self._unchecked:
            with self._checking:
                if use in self._unchecked and isinstance(self.client._client, QdrantRemote):
                    check_grpc_port(self.client._client, self.collection)
                    self._unchecked.discard(use)
        return self.client

    def exists(self) -> bool:
        """See `Target.exists`."""
        with self._failures("looking for the collection"):
            return self._management.collection_exists(self.collection)

    def state(self) -> CollectionState:
        """See `Target.state`.

        A node of a cluster may not show yet what was created or described through another node, so
        this waits a moment for the metadata of this package.
        """
        seconds = _CONSENSUS_SECONDS if self._has_record else _SETTLE_SECONDS
        deadline = time.monotonic() + seconds
        while True:
            try:
                state = self._read_state()
            except CollectionNotFoundError:
                if not self._has_record or self._is_final(deadline):
                    raise
            else:
                if METADATA_KEY in state.metadata:
                    self._has_record = True
                    return state
                if (self._settled and not self._has_record) or self._is_final(deadline):
                    self._settled, self._has_record = True, False
                    return state
            time.sleep(_POLL_SECONDS)

    def _is_final(self, deadline: float) -> bool:
        return not self._is_cluster or time.monotonic() > deadline

    def _read_state(self) -> CollectionState:
        try:
            return self._described()
        except TransientError:
            raise
        except TargetError:
            if self.exists():  # perhaps it was created between the two requests
                return self._described()
        with self._failures("listing the collections"):
            names = [found.name for found in self._management.get_collections().collections]
        raise CollectionNotFoundError(self.collection, sorted(names))

    def _described(self) -> CollectionState:
        with self._failures("reading the configuration"):
            info = self._management.get_collection(self.collection)
        return collection_state(info, embedded=self.kind == "embedded")

    @functools.cached_property
    def _is_cluster(self) -> bool:
        """True if the server reports that it is a node of a cluster. Not every key may ask."""
        if self.kind == "embedded":
            return False
        try:
            with self._failures("reading the state of the cluster"):
                return self._management.cluster_status().status != "disabled"
        except TransientError:
            raise
        except TargetError:
            return False

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Convert exceptions of the clients to a `TargetError` that names the operation."""
        try:
            yield
        except TargetError:
            raise
        except CLIENT_ERRORS as error:
            where = f" at {address(self.client)}" if self.kind == "server" else ""
            failure = f"Qdrant failed at {doing} (collection {self.collection!r}{where})"
            raise classify(error, failure) from error


def address(client: QdrantClient) -> str:
    """Return the address of the server that a client sends points to."""
    remote = client._client
    if not isinstance(remote, QdrantRemote):
        raise TypeError("an embedded client has no address")
    rest = str(remote.rest_uri)
    return f"{rest} (gRPC port {remote._grpc_port})" if remote._prefer_grpc else rest


def collection_names(client: QdrantClient) -> list[str]:
    """Return the sorted names of a client's collections.

    Raises:
        TargetError: The server does not answer.
    """
    remote = client._client
    manager = rest_only(remote) if isinstance(remote, QdrantRemote) else client
    try:
        found = manager.get_collections()
    except CLIENT_ERRORS as error:
        where = f" at {address(client)}" if manager is not client else ""
        raise classify(error, f"Qdrant failed at listing the collections{where}") from error
    return sorted(collection.name for collection in found.collections)

"""Find and delete the points of documents that no longer exist."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import CollectionError, SourceError
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import Target

_BATCH = 256
_PATIENCE = 300.0
"""Seconds; see `QdrantLoader`."""


def id_digest(point: str, _key: str) -> bytes:
    """Return the digest that a load stores for each chunk, from the point's id."""
    return uuid.UUID(point).bytes


def key_digest(_point: str, key: str) -> bytes:
    """Return the digest that `quern collection prune` stores for each document, from its key.

    That command does not split documents, so it does not know the ids of their chunks.
    """
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def gone(
    store: PointStore,
    seen: SeenHashes,
    sources: Set[str] | None,
    namespace: uuid.UUID,
    digest: Callable[[str, str], bytes] = id_digest,
) -> Iterator[list[str]]:
    """Yield the ids of points that a loader wrote and that no longer belong to any document.

    Args:
        store: The collection to read.
        seen: Digests of everything that should stay.
        sources: Consider only points of these sources; None: of all sources.
        namespace: Namespace of the collection's point ids.
        digest: Returns the 16-byte digest for a point's id and its document's key.

    Yields:
        Lists of a few hundred ids. They may be deleted before the next list is requested.
    """
    ids: list[str] = []
    for point in store.scroll([OWN_KEY]):
        own = point.payload.get(OWN_KEY)
        if not isinstance(own, dict) or not _is_own(point.id, own, namespace):
            continue
        if sources is not None and own.get("source", "") not in sources:
            continue
        if digest(point.id, own["key"]) in seen:
            continue
        ids.append(point.id)
        if len(ids) == _BATCH:
            yield ids
            ids = []
    if ids:
        yield ids


def _is_own(point: str, own: dict[str, Any], namespace: uuid.UUID) -> bool:
    """Return True if a loader wrote the point, rather than a program that copied its payload."""
    key, number = own.get("key"), own.get("chunk")
    return (
        isinstance(key, str)
        and isinstance(number, int)
        and point == point_id(namespace, key, number)
    )


def prune_missing(
    target: Target, records: Iterable[Record | SourceError], *, every_source: bool, dry_run: bool
) -> int:
    """Delete the points of documents that are not among `records`, without loading the records.

    Args:
        target: The collection.
        records: Every document that should stay, as `read_paths` yields them.
        every_source: Also prune points of sources that no record names.
        dry_run: Count the points without deleting them.

    Returns:
        The number of points that were deleted, or would be.

    Raises:
        SourceError: A file cannot be read. Nothing is deleted.
        ConfigError: `records` is empty, or the collection has none of its first few. Nothing is
            deleted: the folder may not be mounted, or the load used other keys.
        CollectionError: No loader created the collection.
        TargetError: The collection cannot be read or written.
    """
    provenance = Provenance.read(target.state())
    if provenance is None:
        raise CollectionError(
            target.collection,
            "nothing is recorded about the model that created it: only a collection created by "
            "`QdrantLoader` or `quern load` can be pruned",
        )
    sources: set[str] = set()
    first: list[str] = []
    with SeenHashes() as seen:
        for record in records:
            if isinstance(record, SourceError):
                raise record
            sources.add(record.source)
            seen.add(key_digest("", record.key))
            if len(first) < _BATCH:
                first.append(point_id(provenance.namespace, record.key, 0))
        if not sources:
            raise ConfigError(
                "no documents were found in these paths, so nothing was deleted; check the paths"
            )
        store = PointStore(target, provenance.settings, Retry(_PATIENCE))
        if not store.payloads(first):
            raise ConfigError(
                f"none of the first {len(first)} documents in these paths is in the collection, so "
                "nothing was deleted; load them first, or pass the same paths and `id_field` "
                "(`--id-field`) as the load did"
            )
        scope = None if every_source else sources
        deleted = 0
        for ids in gone(store, seen, scope, provenance.namespace, key_digest):
            if not dry_run:
                store.delete(ids)
            deleted += len(ids)
    return deleted

"""Finds the points of documents that are gone."""

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

_AT_ONCE = 256
_PATIENCE = 300.0
"""Seconds; see `QdrantLoader`."""


def id_digest(point: str, _key: str) -> bytes:
    """What a load remembers: the id of every chunk."""
    return uuid.UUID(point).bytes


def key_digest(_point: str, key: str) -> bytes:
    """What `quern collection prune` remembers, which splits nothing: the key of every document."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def gone(
    store: PointStore,
    seen: SeenHashes,
    sources: Set[str] | None,
    namespace: uuid.UUID,
    digest: Callable[[str, str], bytes] = id_digest,
) -> Iterator[list[str]]:
    """Read through a collection for points that a loader wrote and that are needed no more.

    Args:
        store: What to read.
        seen: Digests of what is needed.
        sources: Where a point must be from; None: from anywhere.
        namespace: Of the collection's ids.
        digest: Makes a digest of 16 bytes of a point's id and its document's key.

    Yields:
        Ids, a few hundred at a time. They may be deleted before the next are asked for.
    """
    found: list[str] = []
    for point in store.scroll([OWN_KEY]):
        own = point.payload.get(OWN_KEY)
        if not isinstance(own, dict) or not _is_own(point.id, own, namespace):
            continue
        if sources is not None and own.get("source", "") not in sources:
            continue
        if digest(point.id, own["key"]) in seen:
            continue
        found.append(point.id)
        if len(found) == _AT_ONCE:
            yield found
            found = []
    if found:
        yield found


def _is_own(point: str, own: dict[str, Any], namespace: uuid.UUID) -> bool:
    """Whether a loader wrote the point: others may have copied its payload."""
    key, number = own.get("key"), own.get("chunk")
    return (
        isinstance(key, str)
        and isinstance(number, int)
        and point == point_id(namespace, key, number)
    )


def prune_missing(
    target: Target, records: Iterable[Record | SourceError], *, every_source: bool, dry_run: bool
) -> int:
    """Delete the points of documents that are not among records, without loading these.

    Args:
        target: The collection.
        records: All that should stay, as `read_paths` yields them.
        every_source: Whether to look at points of sources, too, that no record names.
        dry_run: Only count.

    Returns:
        How many points were deleted, or would be.

    Raises:
        SourceError: Something cannot be read; nothing is deleted then.
        ConfigError: There is no record, or none that was loaded: a folder that is not mounted is
            not an order to delete, and neither are keys that were made otherwise for the load.
        CollectionError: No loader made the collection.
        TargetError: It cannot be read or written.
    """
    made = Provenance.read(target.state())
    if made is None:
        raise CollectionError(target.collection, "nothing is recorded about what made it")
    sources: set[str] = set()
    first: list[str] = []
    with SeenHashes() as seen:
        for record in records:
            if isinstance(record, SourceError):
                raise record
            sources.add(record.source)
            seen.add(key_digest("", record.key))
            if len(first) < _AT_ONCE:
                first.append(point_id(made.namespace, record.key, 0))
        if not sources:
            raise ConfigError("there is no document in these paths; nothing was deleted")
        store = PointStore(target, made.settings, Retry(_PATIENCE))
        if not store.payloads(first):
            raise ConfigError(
                f"not one of the first {len(first)} documents in these paths is in the collection; "
                "load them first, or name `id_field` (`--id-field`) and the paths as the load did"
            )
        scope = None if every_source else sources
        deleted = 0
        for ids in gone(store, seen, scope, made.namespace, key_digest):
            if not dry_run:
                store.delete(ids)
            deleted += len(ids)
    return deleted

"""Find and delete the points of documents that no longer exist."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from types import TracebackType
from typing import Any

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import point_id, stored_hash
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import CollectionError, SourceError
from quernstone_qdrant.identity import check_identity
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.sources import FileRecords
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import Target

_BATCH = 256
_SOURCE_SIZE = 8
_ENTRY = struct.Struct(f"16s16s16s{_SOURCE_SIZE}s")
"""A point's id, and the digests of its key, its content hash and its source."""
_MEMORY = 32 << 20
_PATIENCE = 300.0
"""Seconds; see `QdrantLoader`."""


class PruneCandidates:
    """The points that loaders wrote before this load began. Only these may be pruned.

    Another loader of the same source may write at the same time, and this load does not know its
    documents. So a candidate is deleted only if every replica still has it with the same content.
    Takes 56 bytes per point, on disk beyond 32 MB.

    Use it as a context manager: it deletes its file when the block ends.

    Args:
        namespace: Namespace of the collection's point ids.
    """

    def __init__(self, namespace: uuid.UUID) -> None:
        self._namespace = namespace
        self._file = tempfile.SpooledTemporaryFile(_MEMORY)  # noqa: SIM115 - closed by `__exit__`

    def collect(self, store: PointStore, stopped: Callable[[], bool] = lambda: False) -> None:
        """Read the collection; call this before the documents are listed.

        Args:
            store: The collection.
            stopped: Returns True to end early; the candidates are then incomplete.

        Raises:
            TargetError: The collection cannot be read.
        """
        # One replica is enough: `gone` asks all of them.
        for point in store.scroll([OWN_KEY], every_replica=False):
            if stopped():
                return
            own = point.payload.get(OWN_KEY)
            if isinstance(own, dict) and _is_own(point.id, own, self._namespace):
                self._file.write(
                    _ENTRY.pack(
                        uuid.UUID(point.id).bytes,
                        _digest(own["key"]),
                        _digest(stored_hash(point.payload) or ""),
                        _digest(str(own.get("source", "")), _SOURCE_SIZE),
                    )
                )

    def gone(
        self,
        store: PointStore,
        seen: SeenHashes,
        sources: Set[str] | None,
        *,
        by_key: bool = False,
    ) -> Iterator[list[str]]:
        """Yield the ids of candidates that no longer belong to any document.

        Args:
            store: The collection.
            seen: Digests of everything that should stay: ids of points, or digests of keys.
            sources: Consider only points of these sources; None: of all sources.
            by_key: True if `seen` has the digests of keys; see `key_digest`.

        Yields:
            Lists of a few hundred ids. They may be deleted before the next list is requested.

        Raises:
            TargetError: The points cannot be read from every replica.
        """
        digests = None if sources is None else {_digest(source, _SOURCE_SIZE) for source in sources}
        missing: dict[str, bytes] = {}
        self._file.seek(0)
        while entry := self._file.read(_ENTRY.size):
            point, key, content, source = _ENTRY.unpack(entry)
            considered = digests is None or source in digests
            if considered and (key if by_key else point) not in seen:
                missing[str(uuid.UUID(bytes=point))] = content
            if len(missing) == _BATCH:
                yield _unchanged(store, missing)
                missing = {}
        if missing:
            yield _unchanged(store, missing)

    def __enter__(self) -> PruneCandidates:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def key_digest(key: str) -> bytes:
    """Return the digest by which `quern collection prune` recognizes a document.

    That command does not split documents, so it does not know the ids of their chunks.
    """
    return _digest(key)


def _digest(text: str, size: int = 16) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _unchanged(store: PointStore, points: Mapping[str, bytes]) -> list[str]:
    """Return the ids of the points whose content still has the digest in `points`."""
    stored = store.payloads(list(points))
    return [
        point
        for point, content in points.items()
        if point in stored and _digest(stored_hash(stored[point]) or "") == content
    ]


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

    Points that a loader writes at the same time stay.

    Args:
        target: The collection.
        records: Every document that should stay, as `read_paths` yields them. They are listed only
            after the collection was read.
        every_source: Also prune points of sources that no record names.
        dry_run: Count the points without deleting them.

    Returns:
        The number of points that were deleted, or would be.

    Raises:
        SourceError: A file cannot be read. Nothing is deleted.
        ConfigError: `records` is empty, a link to a folder was not followed, or the collection has
            none of the first few. Nothing is deleted: the folder may not be mounted, or the load
            used other keys.
        CollectionError: No loader created the collection.
        TargetError: The collection cannot be read or written.
    """
    target = Retry(OPENING_PATIENCE).call(target.pinned)
    retry = Retry(_PATIENCE)
    provenance = Provenance.read(retry.call(target.state))
    if provenance is None:
        raise CollectionError(
            target.collection,
            "nothing is recorded about the model that created it: only a collection created by "
            "`QdrantLoader` or `quern load` can be pruned",
        )
    refuse_limited(records)
    check = partial(check_identity, target, provenance)
    store = PointStore(target, provenance.settings, retry, check=check)
    sources: set[str] = set()
    first: list[str] = []
    with SeenHashes() as seen, PruneCandidates(provenance.namespace) as candidates:
        candidates.collect(store)
        for record in records:
            if isinstance(record, SourceError):
                raise record
            sources.add(record.source)
            seen.add(key_digest(record.key))
            if len(first) < _BATCH:
                first.append(point_id(provenance.namespace, record.key, 0))
        if isinstance(records, FileRecords) and records.files.unfollowed:
            raise ConfigError(
                f"the link {records.files.unfollowed[0]!r} is broken or leads in a circle, so "
                "documents below it may still exist and nothing was deleted; remove the link, or "
                "exclude it (`--exclude`)"
            )
        if not sources:
            raise ConfigError(
                "no documents were found in these paths, so nothing was deleted; check the paths"
            )
        if not store.payloads(first):
            raise ConfigError(
                f"none of the first {len(first)} documents in these paths is in the collection, so "
                "nothing was deleted; load them first, or pass the same paths and `id_field` "
                "(`--id-field`) as the load did"
            )
        scope = None if every_source else sources
        deleted = 0
        for ids in candidates.gone(store, seen, scope, by_key=True):
            if not dry_run:
                store.delete(ids)
            deleted += len(ids)
    return deleted


def refuse_limited(records: object) -> None:
    """Raise a `ConfigError` if `records` may be incomplete: pruning would delete the rest."""
    if isinstance(records, FileRecords) and records.incomplete:
        raise ConfigError(
            f"{records.incomplete}, and pruning would delete what was not read: load without "
            "pruning, or read complete files"
        )

"""Merge-join collections by the ids of their points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from quernstone_qdrant.targets import CollectionState, StoredPoint
from quernstone_qdrant.targets.base import IDENTITY_PREFIX, METADATA_KEY, UNUSED_KEY
from quernstone_qdrant.targets.deferred_indexing import DEFERRED_KEY

MIGRATION_KEY = "quernstone_migration"
"""Key of a collection's metadata under which a migration records its state."""

T = TypeVar("T")
_ID_BYTES = 16
ID_SIZE = 1 + _ID_BYTES
"""Bytes of an id from `id_bytes`."""


def id_bytes(point: str) -> bytes:
    """Return an id as bytes that sort as Qdrant sorts ids: integers before UUIDs."""
    if point.isdecimal():
        return b"\0" + int(point).to_bytes(_ID_BYTES, "big")
    return b"\1" + bytes.fromhex(point.replace("-", ""))


def aligned(
    *streams: tuple[Iterator[Any], Callable[[Any], bytes]],
) -> Iterator[tuple[bytes, list[Any]]]:
    """Merge streams that are sorted by id.

    Args:
        streams: Iterators, each with a function that returns the id of an item.

    Yields:
        Each id, with one item per stream, None where the stream lacks it.
    """
    heads = [next(stream, None) for stream, _ in streams]
    while True:
        ids = [
            None if head is None else key(head)
            for head, (_, key) in zip(heads, streams, strict=True)
        ]
        present = [point for point in ids if point is not None]
        if not present:
            return
        first = min(present)
        found = [head if point == first else None for head, point in zip(heads, ids, strict=True)]
        yield first, found
        for place, point in enumerate(ids):
            if point == first:
                heads[place] = next(streams[place][0], None)


def joined(
    ours: Iterator[StoredPoint], theirs: Iterator[StoredPoint]
) -> Iterator[tuple[StoredPoint | None, StoredPoint | None]]:
    """Pair the points of two collections by id. Both must be in the order of their ids.

    Points that were already paired may be written during the join: they are not read again.
    """
    for _, (one, other) in aligned((ours, point_key), (theirs, point_key)):
        yield cast("StoredPoint | None", one), cast("StoredPoint | None", other)


def point_key(point: StoredPoint) -> bytes:
    """Return the id of a point for `aligned`."""
    return id_bytes(point.id)


def carried_metadata(state: CollectionState) -> Mapping[str, Any]:
    """Return the metadata that a copy or a migrated collection keeps.

    This is what other programs and `quern load` recorded, without the facts about the collection
    itself: its model, identity, deferred index and migration.
    """
    own = (METADATA_KEY, MIGRATION_KEY, UNUSED_KEY)
    return {
        name: value
        for name, value in state.metadata.items()
        if name not in own
        and not name.startswith(IDENTITY_PREFIX)
        and name.partition(":")[0] != DEFERRED_KEY
    }

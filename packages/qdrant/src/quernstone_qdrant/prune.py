"""Finds the points of documents that are gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Set
from typing import Any

from quernstone_qdrant.layouts import OWN_KEY
from quernstone_qdrant.points import point_id
from quernstone_qdrant.seen import SeenHashes
from quernstone_qdrant.store import PointStore

_AT_ONCE = 256


def gone(
    store: PointStore, seen: SeenHashes, sources: Set[str] | None, namespace: uuid.UUID
) -> Iterator[list[str]]:
    """Read through a collection for points that a loader wrote and that are needed no more.

    Args:
        store: What to read.
        seen: Ids of the points that are needed, as 16 bytes.
        sources: Where a point must be from; None: from anywhere.
        namespace: Of the collection's ids.

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
        if uuid.UUID(point.id).bytes in seen:
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

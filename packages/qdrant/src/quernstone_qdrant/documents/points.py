"""From a chunk to a point: its id, its hash, and its payload.

Nothing here talks to Qdrant. The shape of the payload is a `Layout`'s.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from quernstone_qdrant.documents.chunking import Chunk
from quernstone_qdrant.documents.json_values import JsonValue
from quernstone_qdrant.documents.layouts import OWN_KEY, Layout

NAMESPACE = uuid.UUID("6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21")
"""Root of the namespaces of all collections. Changing it would duplicate every collection."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point that lacks only its vector."""

    id: str
    """A UUID: a function of the collection, the source key and the chunk number."""
    text: str
    """What is embedded."""
    content_hash: str
    """Differs when the text, the metadata, the source or the payload's shape do."""
    chunk: Chunk
    metadata: dict[str, JsonValue]
    layout: Layout

    def payload(self) -> dict[str, JsonValue]:
        """Build what is stored beside the vectors."""
        key, number = self.chunk.record.key, self.chunk.number
        own: dict[str, JsonValue] = {"key": key, "chunk": number, "hash": self.content_hash}
        if self.chunk.record.source:
            own["source"] = self.chunk.record.source
        return self.layout.payload(
            point=self.id,
            key=key,
            text=self.text,
            metadata=self.metadata,
            own=own,
        )


def collection_namespace(collection: str) -> uuid.UUID:
    """Namespace for the ids of a new collection."""
    return uuid.uuid5(NAMESPACE, collection)


def point_id(namespace: uuid.UUID, key: str, number: int) -> str:
    """Id of chunk `number` of the document `key`. The same on every run and machine.

    It is `uuid.uuid5(namespace, f"{key}:{number}")`, which takes ten times as long.
    """
    name = namespace.bytes + f"{key}:{number}".encode()
    digits = hashlib.sha1(name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def make_point(namespace: uuid.UUID, fingerprint: str, chunk: Chunk, layout: Layout) -> Point:
    """Prepare a chunk.

    Args:
        namespace: Of the collection.
        fingerprint: Of the embedder. Part of the hash, so that a vector is never kept which
            another model made.
        chunk: The text and where it is from.
        layout: Shape of the payload. Part of the hash, too.
    """
    metadata: dict[str, JsonValue] = dict(chunk.record.metadata)
    metadata.setdefault("chunk", chunk.number)
    if chunk.headings:
        metadata.setdefault("headings", list(chunk.headings))
    key, number, source = chunk.record.key, chunk.number, chunk.record.source
    return Point(
        id=point_id(namespace, key, number),
        text=chunk.text,
        content_hash=content_hash(layout, fingerprint, key, number, chunk.text, metadata, source),
        chunk=chunk,
        metadata=metadata,
        layout=layout,
    )


def content_hash(
    layout: Layout,
    fingerprint: str,
    key: str,
    number: int,
    text: str,
    metadata: Mapping[str, JsonValue],
    source: str,
) -> str:
    """Hash everything that a point is made of; see `make_point`.

    Of that is the source: a document that another source has now must not be pruned with the old.
    """
    shape = f"{layout.name}/{layout.version}"
    parts = [shape, fingerprint, key, number, text, metadata, *([source] if source else [])]
    content = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def stored_hash(payload: dict[str, Any] | None) -> str | None:
    """Read `Point.content_hash` back from a payload. None: the point is not ours, or damaged."""
    own = (payload or {}).get(OWN_KEY)
    found = own.get("hash") if isinstance(own, dict) else None
    return found if isinstance(found, str) else None

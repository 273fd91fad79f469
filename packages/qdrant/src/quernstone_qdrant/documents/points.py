"""Build points from chunks: id, content hash and payload.

Nothing here talks to Qdrant. A `Layout` decides the shape of the payload.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from quernstone_qdrant.documents.chunking import Chunk
from quernstone_qdrant.documents.floats import last_bits
from quernstone_qdrant.documents.json_values import JsonValue
from quernstone_qdrant.documents.layouts import OWN_KEY, Layout
from quernstone_qdrant.documents.nodes import (
    NodeFields,
    embedded_text,
    fields_digest,
    is_chunk,
    of_chunk,
)

NAMESPACE = uuid.UUID("6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21")
"""Root of all collection namespaces. Changing it would duplicate the points of every collection."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point without its vectors."""

    id: str
    """A UUID derived from the collection, the document's key and the chunk number."""
    text: str
    """Text to embed."""
    content_hash: str
    """Hash of the text, the metadata, the source, the layout and the model; see `content_hash`."""
    chunk: Chunk
    metadata: dict[str, JsonValue]
    layout: Layout
    node: NodeFields | None = None
    """Fields of the LlamaIndex node to store."""

    @property
    def embedded(self) -> str | None:
        """`text` if it is not the text of the chunk alone."""
        return self.text if self.node is not None and self.layout.embed_metadata else None

    @property
    def node_digest(self) -> str | None:
        """Hash of `node`, which can change without a change of `content_hash`."""
        return None if self.node is None else fields_digest(self.node)

    @property
    def node_id(self) -> str | None:
        """Id of `node` if that is another one than `id`."""
        node_id = None if self.node is None else self.node.get("id_")
        return None if node_id in (None, self.id) else str(node_id)

    @property
    def vector_digest(self) -> str | None:
        """Hash of the vector that the record came with; None if its text is embedded."""
        vector = self.chunk.record.vector
        return None if vector is None else hashlib.sha256(vector.tobytes()).hexdigest()[:32]

    def payload(self) -> dict[str, JsonValue]:
        """Build the payload."""
        key, number = self.chunk.record.key, self.chunk.number
        own: dict[str, JsonValue] = {
            "key": key,
            "chunk": number,
            "last": self.chunk.last,
            "hash": self.content_hash,
            "floats": last_bits(self.metadata),
        }
        if self.chunk.record.source:
            own["source"] = self.chunk.record.source
        if self.node is not None:
            own["node"] = self.node_digest
        if self.node_id is not None:
            own["node_id"] = self.node_id
        if self.vector_digest is not None:
            own["vector"] = self.vector_digest
        return self.layout.payload(
            point=self.id,
            key=key,
            text=self.chunk.text,
            metadata=self.metadata,
            own=own,
            node=self.node,
        )


def collection_namespace(collection: str) -> uuid.UUID:
    """Return the namespace for the point ids of a new collection."""
    return uuid.uuid5(NAMESPACE, collection)


def point_id(namespace: uuid.UUID, key: str, number: int) -> str:
    """Return the id of chunk `number` of document `key`, equal on every run and machine.

    Equals `uuid.uuid5(namespace, f"{key}:{number}")`, at a tenth of the time.
    """
    name = namespace.bytes + f"{key}:{number}".encode()
    digits = hashlib.sha1(name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def make_point(namespace: uuid.UUID, fingerprint: str, chunk: Chunk, layout: Layout) -> Point:
    """Build the point of a chunk.

    Args:
        namespace: Namespace of the collection.
        fingerprint: Fingerprint of the embedder. It is part of the hash, so that vectors of another
            model are replaced.
        chunk: The chunk.
        layout: Layout of the payload. It is part of the hash.
    """
    metadata: dict[str, JsonValue] = dict(chunk.record.metadata)
    key, number, source = chunk.record.key, chunk.number, chunk.record.source
    own_id = point_id(namespace, key, number)
    fields = chunk.record.node if layout.node else None
    if not is_chunk(fields):
        metadata.setdefault("chunk", number)
        if chunk.headings:
            metadata.setdefault("headings", list(chunk.headings))
        if chunk.page is not None:
            metadata.setdefault("page", chunk.page)
        if fields is not None:
            added = [name for name in metadata if name not in chunk.record.metadata]
            fields = of_chunk(fields, own_id, chunk.start, chunk.text, added)
    embedded = None
    if fields is not None and layout.embed_metadata:
        embedded = embedded_text(fields, chunk.text, metadata)
    return Point(
        id=own_id,
        text=chunk.text if embedded is None else embedded,
        content_hash=content_hash(
            layout, fingerprint, key, number, chunk.text, metadata, source, embedded
        ),
        chunk=chunk,
        metadata=metadata,
        layout=layout,
        node=None if fields is None else dict(fields),
    )


def content_hash(
    layout: Layout,
    fingerprint: str,
    key: str,
    number: int,
    text: str,
    metadata: Mapping[str, JsonValue],
    source: str,
    embedded: str | None = None,
) -> str:
    """Hash everything that determines a point; see `make_point`.

    Includes the source, so a document that moved is rewritten rather than pruned with its old
    source. `embedded` is the text to embed if that is another one. The other fields of a LlamaIndex
    node, such as ids, are not included: they change without a change of the vector.
    """
    shape = f"{layout.name}/{layout.version}"
    parts = [shape, fingerprint, key, number, text, metadata, *([source] if source else [])]
    if embedded is not None:
        parts.append({"embedded": embedded})
    content = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def is_stored(point: Point, payload: Mapping[str, Any] | None) -> bool:
    """Return True if a point with this payload has the content and the vector of `point`.

    The last chunk of a document that became shorter may have its old text. It is written again,
    because `verify` would miss the chunks after it. Older versions did not store `last`.
    """
    if stored_hash(payload) != point.content_hash:
        return False
    if _own_text(payload, "vector") != point.vector_digest:
        return False
    own = (payload or {})[OWN_KEY]
    return bool(own.get("last", point.chunk.last) == point.chunk.last)


def stored_hash(payload: Mapping[str, Any] | None) -> str | None:
    """Return the content hash in a payload; None if another program wrote it, or it is damaged."""
    return _own_text(payload, "hash")


def has_node_of(point: Point, payload: Mapping[str, Any] | None) -> bool:
    """Return True if a stored point has the LlamaIndex node of `point`, and its id for filters."""
    stored = _own_text(payload, "node"), _own_text(payload, "node_id")
    return stored == (point.node_digest, point.node_id)


def _own_text(payload: Mapping[str, Any] | None, name: str) -> str | None:
    own = (payload or {}).get(OWN_KEY)
    found = own.get(name) if isinstance(own, dict) else None
    return found if isinstance(found, str) else None

"""From a chunk to a point: its id, its hash, and a payload that both frameworks read.

Nothing here talks to Qdrant or imports a framework. The payload is the union of what
`langchain_qdrant.QdrantVectorStore` and LlamaIndex's `QdrantVectorStore` write:

- LangChain reads `page_content` and `metadata`, and filters on `metadata.<name>`;
- LlamaIndex reads `_node_content` (a JSON string) and `_node_type`, filters on top-level names,
  and deletes by `doc_id`.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from quernstone_qdrant.chunking import Chunk
from quernstone_qdrant.json_values import JsonValue

NAMESPACE = uuid.UUID("6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21")
"""Root of the namespaces of all collections. Changing it would duplicate every collection."""

LAYOUT = "universal/1"
"""Name of the payload's shape. A change here makes the next run rewrite every point."""

OWN_KEY = "quernstone"
"""Where the payload holds what the loader needs to find and compare its points."""

_RESERVED = (
    "page_content", "metadata", "_node_content", "_node_type",
    "document_id", "doc_id", "ref_doc_id", OWN_KEY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """A point that lacks only its vector."""

    id: str
    """A UUID: a function of the collection, the source key and the chunk number."""
    text: str
    """What is embedded."""
    content_hash: str
    """Differs when the text, the metadata or the payload's shape do."""
    chunk: Chunk
    metadata: dict[str, JsonValue]

    def payload(self) -> dict[str, JsonValue]:
        """Build what is stored beside the vector."""
        key = self.chunk.record.key
        return {
            **{name: value for name, value in self.metadata.items() if name not in _RESERVED},
            "page_content": self.text,
            "metadata": self.metadata,
            "_node_content": _node_json(self.id, self.text, self.metadata, key),
            "_node_type": "TextNode",
            "document_id": key,
            "doc_id": key,
            "ref_doc_id": key,
            OWN_KEY: {
                "key": key,
                "chunk": self.chunk.number,
                "hash": self.content_hash,
            },
        }


def collection_namespace(collection: str) -> uuid.UUID:
    """Namespace for the ids of a new collection."""
    return uuid.uuid5(NAMESPACE, collection)


def point_id(namespace: uuid.UUID, key: str, number: int) -> str:
    """Id of chunk `number` of the document `key`. The same on every run and machine."""
    return str(uuid.uuid5(namespace, f"{key}:{number}"))


def make_point(namespace: uuid.UUID, fingerprint: str, chunk: Chunk) -> Point:
    """Prepare a chunk.

    Args:
        namespace: Of the collection.
        fingerprint: Of the embedder. Part of the hash, so that a vector is never kept which
            another model made.
        chunk: The text and where it is from.
    """
    metadata: dict[str, JsonValue] = dict(chunk.record.metadata)
    metadata.setdefault("chunk", chunk.number)
    if chunk.headings:
        metadata.setdefault("headings", list(chunk.headings))
    content = orjson.dumps(
        [LAYOUT, fingerprint, chunk.record.key, chunk.number, chunk.text, metadata],
        option=orjson.OPT_SORT_KEYS,
    )
    return Point(
        id=point_id(namespace, chunk.record.key, chunk.number),
        text=chunk.text,
        content_hash=hashlib.sha256(content).hexdigest()[:32],
        chunk=chunk,
        metadata=metadata,
    )


def stored_hash(payload: dict[str, Any] | None) -> str | None:
    """Read `Point.content_hash` back from a payload. None: the point is not ours, or damaged."""
    own = (payload or {}).get(OWN_KEY)
    found = own.get("hash") if isinstance(own, dict) else None
    return found if isinstance(found, str) else None


def _node_json(point: str, text: str, metadata: dict[str, JsonValue], key: str) -> str:
    """The JSON of a LlamaIndex `TextNode`, as `node_to_metadata_dict` of 0.13 and 0.14 writes it.

    A golden test compares it to the original.
    """
    source: dict[str, JsonValue] = {
        "node_id": key, "node_type": None, "metadata": {}, "hash": None,
        "class_name": "RelatedNodeInfo",
    }  # fmt: skip
    node: dict[str, JsonValue] = {
        "id_": point,
        "embedding": None,
        "metadata": metadata,
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        "relationships": {"1": source},
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "text": text,
        "mimetype": "text/plain",
        "start_char_idx": None,
        "end_char_idx": None,
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
    }
    return orjson.dumps(node).decode()

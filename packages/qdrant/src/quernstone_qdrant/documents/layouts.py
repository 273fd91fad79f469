"""Payload layouts that LangChain and LlamaIndex can read.

- LangChain's `QdrantVectorStore` reads `page_content` and `metadata`, and filters on
  `metadata.<name>`.
- LlamaIndex's `QdrantVectorStore` reads `_node_content` (a JSON string) and `_node_type`, filters
  on `<name>`, and deletes a document by `doc_id`.

This module imports neither framework; golden tests pin the payloads. Every layout also stores,
under `OWN_KEY`, the fields by which the loader finds and compares its points.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import orjson

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.floats import equal
from quernstone_qdrant.documents.json_values import JsonValue

LayoutName: TypeAlias = Literal["universal", "langchain", "llamaindex", "plain"]

OWN_KEY = "quernstone"
"""Payload field with the document's key, the chunk's number and the content hash."""
KEY_FIELD = f"{OWN_KEY}.key"
"""Payload path of the document's key, in every layout."""

_DOCUMENT_FIELDS = ("document_id", "doc_id", "ref_doc_id")
_NODE_FIELDS = ("_node_content", "_node_type", *_DOCUMENT_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of a payload, independent of its layout."""

    key: str
    """Key of the document; empty if another program wrote the point."""
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One payload layout."""

    name: LayoutName
    version: int = 1
    """Part of every content hash: after a change, the next load rewrites every point."""
    text_field: str | None
    """Field of the text; None: only LlamaIndex's JSON holds it."""
    nested: bool = False
    """Store the metadata in a field `metadata`."""
    flat: bool = False
    """Store the metadata at the top level."""
    node: bool = False
    """Store a LlamaIndex node."""

    def payload(
        self,
        *,
        point: str,
        key: str,
        text: str,
        metadata: dict[str, JsonValue],
        own: dict[str, JsonValue],
    ) -> dict[str, JsonValue]:
        """Build the payload of a point.

        Args:
            point: Id of the point.
            key: Key of the document.
            text: Text of the chunk.
            metadata: Metadata of the chunk. A field whose name the layout reserves is not stored at
                the top level, but in `metadata`, in the node, or in `OWN_KEY`.
            own: Value of the field `OWN_KEY`.
        """
        reserved = _reserved(self)
        payload: dict[str, JsonValue] = {OWN_KEY: own}
        if self.flat:
            payload |= {name: value for name, value in metadata.items() if name not in reserved}
        if self.text_field:
            payload[self.text_field] = text
        if self.nested:
            payload["metadata"] = metadata
        if self.node:
            payload["_node_content"] = _node_json(point, text, metadata, key)
            payload["_node_type"] = "TextNode"
            payload |= dict.fromkeys(_DOCUMENT_FIELDS, key)
        elif self.flat:
            hidden = {name: value for name, value in metadata.items() if name in reserved}
            if hidden:
                payload[OWN_KEY] = {**own, "metadata": hidden}
        return payload

    def read(self, payload: Mapping[str, Any]) -> Content:
        """Extract the content of a payload. Missing fields are empty."""
        own = _own(payload)
        node = _parsed_node(payload) if self.node else {}
        text = payload.get(self.text_field) if self.text_field else node.get("text")
        if self.nested:
            metadata = payload.get("metadata")
        elif self.node:
            metadata = node.get("metadata")
        else:
            reserved = _reserved(self)
            metadata = {name: value for name, value in payload.items() if name not in reserved}
            hidden = own.get("metadata")
            metadata |= hidden if isinstance(hidden, dict) else {}
        return _content(own, text, metadata)

    def copies(self, payload: Mapping[str, Any]) -> list[Content]:
        """Return the complete copies of the content in a payload; the first is that of `read`."""
        found = [self.read(payload)]
        if self.node and self.text_field:
            node = _parsed_node(payload)
            found.append(_content(_own(payload), node.get("text"), node.get("metadata")))
        return found

    def equal(self, name: str, stored: Any, expected: Any) -> bool:
        """Compare a top-level field with its expected value.

        Floats may differ by the rounding of Qdrant, and maps by the order of their keys, also those
        in LlamaIndex's JSON.
        """
        if name == "_node_content" and isinstance(stored, str):
            try:
                return equal(orjson.loads(stored), orjson.loads(expected))
            except orjson.JSONDecodeError:
                return False
        return equal(stored, expected)

    def field(self, name: str) -> str:
        """Return the path of a metadata field, for filters and payload indexes."""
        return f"metadata.{name}" if self.nested else name


LAYOUTS: Mapping[LayoutName, Layout] = {
    layout.name: layout
    for layout in (
        Layout(name="universal", text_field="page_content", nested=True, flat=True, node=True),
        Layout(name="langchain", text_field="page_content", nested=True),
        Layout(name="llamaindex", text_field=None, flat=True, node=True),
        Layout(name="plain", text_field="text", flat=True),
    )
}


def layout_of(name: str) -> Layout:
    """Return the layout with this name.

    Raises:
        ConfigError: The name is unknown.
    """
    for known, layout in LAYOUTS.items():
        if known == name:
            return layout
    raise ConfigError(f"`layout` is {name!r}; it must be one of {', '.join(get_args(LayoutName))}")


def _own(payload: Mapping[str, Any]) -> dict[str, Any]:
    own = payload.get(OWN_KEY)
    return own if isinstance(own, dict) else {}


def _parsed_node(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the LlamaIndex node in a payload; empty if it is missing or damaged."""
    try:
        node = orjson.loads(payload.get("_node_content") or "{}")
    except (TypeError, ValueError):
        return {}
    return node if isinstance(node, dict) else {}


def _content(own: Mapping[str, Any], text: object, metadata: object) -> Content:
    return Content(
        key=str(own.get("key", "")),
        text=str(text or ""),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


@functools.cache
def _reserved(layout: Layout) -> frozenset[str]:
    """Return the top-level payload fields that the layout itself uses."""
    names = {OWN_KEY}
    if layout.text_field:
        names.add(layout.text_field)
    if layout.nested:
        names.add("metadata")
    return frozenset(names.union(_NODE_FIELDS) if layout.node else names)


def _node_json(point: str, text: str, metadata: dict[str, JsonValue], key: str) -> str:
    """Return the JSON of a LlamaIndex `TextNode`, as `node_to_metadata_dict` of 0.13 and 0.14.

    A golden test compares it with LlamaIndex's own output.
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

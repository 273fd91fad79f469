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
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import orjson

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.floats import equal
from quernstone_qdrant.documents.json_values import JsonValue
from quernstone_qdrant.documents.nodes import (
    LOADER_KEYS,
    NodeFields,
    NodeRule,
    embedded_text,
    from_node_json,
    plain_fields,
    source_id,
    to_node_json,
    unlinked_fields,
)

LayoutName: TypeAlias = Literal["universal", "langchain", "llamaindex", "plain"]

OWN_KEY = "quernstone"
"""Payload field with the document's key, the chunk's number and the content hash."""
KEY_FIELD = f"{OWN_KEY}.key"
"""Payload path of the document's key, in every layout."""
HASH_FIELD = f"{OWN_KEY}.hash"
"""Payload path of the content hash."""
NODE_FIELD = f"{OWN_KEY}.node_id"
"""Payload path of the id of a LlamaIndex node whose point has another id."""

_DOCUMENT_FIELDS = ("document_id", "doc_id", "ref_doc_id")
_NODE_FIELDS = ("_node_content", "_node_type", *_DOCUMENT_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of a payload, independent of its layout."""

    key: str
    """Key of the document; empty if another program wrote the point."""
    text: str
    metadata: dict[str, Any]
    node: NodeFields | None = None
    """Fields of the LlamaIndex node that was loaded; None if it was another kind of record."""
    node_metadata: Mapping[str, Any] | None = None
    """Metadata in the node's JSON, in its original order: Qdrant sorts the keys of a map."""
    has_embedded_metadata: bool = False
    """True if the metadata of the node was embedded with its text."""

    @property
    def embedded(self) -> str:
        """The text that is embedded, which BM25 also reads.

        Raises:
            ValueError: The stored templates of the node cannot be filled in.
        """
        if self.node is None or not self.has_embedded_metadata:
            return self.text
        return embedded_text(self.node, self.text, self.node_metadata or {})


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
    node_rule: NodeRule = 1
    """See `nodes.py`."""
    embed_metadata: bool = True
    """Embed the metadata of LlamaIndex nodes with their text (rule 2)."""

    @property
    def key_fields(self) -> tuple[str, ...]:
        """Payload paths by which documents and nodes are found and deleted."""
        if not self.node:
            return (KEY_FIELD,)
        # LlamaIndex deletes by `doc_id`
        return (KEY_FIELD, "doc_id", *([NODE_FIELD] if self.node_rule > 1 else []))

    def payload(
        self,
        *,
        point: str,
        key: str,
        text: str,
        metadata: dict[str, JsonValue],
        own: dict[str, JsonValue],
        node: NodeFields | None = None,
    ) -> dict[str, JsonValue]:
        """Build the payload of a point.

        Args:
            point: Id of the point.
            key: Key of the document.
            text: Text of the chunk.
            metadata: Metadata of the chunk. A field whose name the layout reserves is not stored at
                the top level, but in `metadata`, in the node, or in `OWN_KEY`.
            own: Value of the field `OWN_KEY`.
            node: Fields of the LlamaIndex node; None for other records.
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
            document = key
            if node is not None:
                document = source_id(node) or "None"  # LlamaIndex's own value
            else:
                hidden_keys = LOADER_KEYS if self.node_rule > 1 else ()
                node = plain_fields(point, key, [name for name in hidden_keys if name in metadata])
            payload["_node_content"] = to_node_json(node, text, metadata)
            payload["_node_type"] = node["class_name"]
            payload |= dict.fromkeys(_DOCUMENT_FIELDS, document)
        elif self.flat:
            hidden = {name: value for name, value in metadata.items() if name in reserved}
            if hidden:
                payload[OWN_KEY] = {**own, "metadata": hidden}
        return payload

    def read(self, payload: Mapping[str, Any]) -> Content:
        """Extract the content of a payload, also of one that LangChain or LlamaIndex wrote.

        Missing fields are empty.
        """
        own = _own(payload)
        foreign = None if own else self._foreign(payload)
        if foreign is not None:
            return foreign
        parsed = _parsed_node(payload) if self.node else {}
        fields, node_text, node_metadata = from_node_json(parsed)
        text = payload.get(self.text_field) if self.text_field else node_text
        if self.nested:
            metadata = payload.get("metadata")
        elif self.node:
            metadata = node_metadata
        else:
            reserved = _reserved(self)
            metadata = {name: value for name, value in payload.items() if name not in reserved}
            hidden = own.get("metadata")
            metadata |= hidden if isinstance(hidden, dict) else {}
        return self._content(own, text, metadata, fields, node_metadata)

    def copies(self, payload: Mapping[str, Any]) -> list[Content]:
        """Return the complete copies of the content in a payload; the first is that of `read`."""
        found = [self.read(payload)]
        if self.node and self.text_field:
            fields, text, metadata = from_node_json(_parsed_node(payload))
            found.append(self._content(_own(payload), text, metadata, fields, metadata))
        return found

    def _foreign(self, payload: Mapping[str, Any]) -> Content | None:
        """Return the content of a point of LangChain or LlamaIndex; None if neither wrote it."""
        if node := _parsed_node(payload):
            _, text, metadata = from_node_json(node)
        elif "page_content" in payload:
            text, metadata = payload["page_content"], payload.get("metadata")
        else:
            return None
        return self._content({}, text, metadata, {}, None)

    def missing_fields(self, payload: Mapping[str, Any], point: str) -> dict[str, JsonValue]:
        """Return the fields that readers of this layout lack in a point of another program.

        Empty if the payload is complete, or neither LangChain nor LlamaIndex wrote it.
        """
        content = None if _own(payload) else self._foreign(payload)
        if content is None:
            return {}
        complete = self.payload(
            point=point,
            key="",
            text=content.text,
            metadata=content.metadata,
            own={},
            node=unlinked_fields(point) if self.node else None,
        )
        del complete[OWN_KEY]
        return {name: value for name, value in complete.items() if name not in payload}

    def _content(
        self,
        own: Mapping[str, Any],
        text: object,
        metadata: object,
        fields: NodeFields,
        node_metadata: object,
    ) -> Content:
        return Content(
            key=str(own.get("key", "")),
            text=str(text or ""),
            metadata=metadata if isinstance(metadata, dict) else {},
            node=fields if "node" in own else None,
            node_metadata=node_metadata if isinstance(node_metadata, dict) else {},
            has_embedded_metadata="node" in own and self.embed_metadata,
        )

    def equal(self, name: str, stored: Any, expected: Any) -> bool:
        """Compare a top-level field with its expected value.

        Floats may differ by the rounding of Qdrant, and maps by the order of their keys, also those
        in LlamaIndex's JSON.
        """
        if self.node and name == "_node_content" and isinstance(stored, str):
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


def layout_of(name: str, node_rule: NodeRule = 1, *, embed_metadata: bool = True) -> Layout:
    """Return the layout with this name, which follows these rules for LlamaIndex nodes.

    Raises:
        ConfigError: The name is unknown.
    """
    for known, layout in LAYOUTS.items():
        if known == name:
            return replace(layout, node_rule=node_rule, embed_metadata=embed_metadata)
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


@functools.cache
def _reserved(layout: Layout) -> frozenset[str]:
    """Return the top-level payload fields that the layout itself uses."""
    names = {OWN_KEY}
    if layout.text_field:
        names.add(layout.text_field)
    if layout.nested:
        names.add("metadata")
    return frozenset(names.union(_NODE_FIELDS) if layout.node else names)

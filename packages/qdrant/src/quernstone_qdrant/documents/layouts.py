"""The shapes that a payload can have, so that the frameworks find in it what they expect.

- LangChain's `QdrantVectorStore` reads `page_content` and `metadata`, and filters on
  `metadata.<name>`;
- LlamaIndex's reads `_node_content` (a JSON string) and `_node_type`, filters on `<name>`, and
  deletes a document by `doc_id`.

Nothing here imports a framework; golden tests pin what is written. Every layout also holds, under
`OWN_KEY`, what the loader needs to find and compare its points.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import orjson

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.json_values import JsonValue

LayoutName: TypeAlias = Literal["universal", "langchain", "llamaindex", "plain"]

OWN_KEY = "quernstone"
"""Where the payload holds the document's key, the chunk's number and the content's hash."""
KEY_FIELD = f"{OWN_KEY}.key"
"""Path of the document's key, in every layout."""

_DOCUMENT_FIELDS = ("document_id", "doc_id", "ref_doc_id")
_NODE_FIELDS = ("_node_content", "_node_type", *_DOCUMENT_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a payload says, whatever its shape."""

    key: str
    """Of the document; empty when another program wrote the point."""
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One shape of a payload."""

    name: LayoutName
    version: int = 1
    """Part of every content hash: a change makes the next load write every point anew."""
    text_field: str | None
    """Field of the text; None: only LlamaIndex's JSON holds it."""
    nested: bool = False
    """Whether a field `metadata` holds the metadata."""
    flat: bool = False
    """Whether the top level holds the metadata."""
    node: bool = False
    """Whether there is a LlamaIndex node."""

    def payload(
        self,
        *,
        point: str,
        key: str,
        text: str,
        metadata: dict[str, JsonValue],
        own: dict[str, JsonValue],
    ) -> dict[str, JsonValue]:
        """Build what is stored beside the vectors.

        Args:
            point: Id of the point.
            key: Of the document.
            text: Of the chunk.
            metadata: Of the chunk. At the top level, a name that the layout itself needs is left
                out; it is kept in `metadata`, in the node, or beside `own`.
            own: What goes under `OWN_KEY`.
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
        """Read a payload back. What another program left out is empty."""
        own = payload.get(OWN_KEY)
        own = own if isinstance(own, dict) else {}
        node = orjson.loads(payload.get("_node_content") or "{}") if self.node else {}
        text = payload.get(self.text_field) if self.text_field else node.get("text")
        if self.nested:
            metadata = payload.get("metadata")
        elif self.node:
            metadata = node.get("metadata")
        else:
            reserved = _reserved(self)
            metadata = {name: value for name, value in payload.items() if name not in reserved}
            metadata |= own.get("metadata") or {}
        return Content(key=str(own.get("key", "")), text=str(text or ""), metadata=metadata or {})

    def field(self, name: str) -> str:
        """Path of a metadata field, for filters and payload indexes."""
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
    """Look a layout up.

    Raises:
        ConfigError: There is none of that name.
    """
    for known, layout in LAYOUTS.items():
        if known == name:
            return layout
    raise ConfigError(f"`layout` is {name!r}; it must be one of {', '.join(get_args(LayoutName))}")


@functools.cache
def _reserved(layout: Layout) -> frozenset[str]:
    """Names of the payload's top level that the layout itself needs."""
    names = {OWN_KEY}
    if layout.text_field:
        names.add(layout.text_field)
    if layout.nested:
        names.add("metadata")
    return frozenset(names.union(_NODE_FIELDS) if layout.node else names)


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

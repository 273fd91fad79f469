"""LlamaIndex nodes: which fields are kept, and which text is embedded.

A collection keeps the rule that it was created with:

1. A node is a text with metadata. Its text alone is embedded, and long texts are split again.
2. A node keeps all its fields, is not split, and belongs to the document of its `ref_doc_id`.
   LlamaIndex's own text for embeddings is embedded: metadata, without the excluded keys, and text.
   Keys that the loader adds are excluded from it, also in the nodes of other records.

This module does not import LlamaIndex; tests compare the results with its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import orjson

from quernstone_qdrant.documents.json_values import JsonValue, to_json

NodeRule: TypeAlias = Literal[1, 2]
NEWEST_NODE_RULE: NodeRule = 2
NodeFields: TypeAlias = "dict[str, JsonValue]"
"""Fields of a node without text, metadata and embedding."""

LOADER_KEYS = ("source", "row", "chunk", "headings")
"""Metadata keys that the loader and its readers add."""

_SOURCE = "1"  # `NodeRelationship.SOURCE`
_DOCUMENT = "4"  # `ObjectType.DOCUMENT`
_SEPARATE = ("text", "metadata", "embedding")
_TEMPLATES = ("metadata_template", "metadata_separator", "text_template")
_EXCLUSIONS = ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")


def fields_of(node: Any) -> NodeFields:
    """Return the fields of a node or, for a document, those of each of its chunks.

    Raises:
        ValueError: A field cannot be stored.
    """
    dumped: dict[str, Any] = node.model_dump(exclude={"embedding", "metadata"})
    if is_document(node):
        source: NodeFields = {
            "node_id": str(node.id_), "node_type": _DOCUMENT, "metadata": to_json(node.metadata),
            "hash": node.hash, "class_name": "RelatedNodeInfo",
        }  # fmt: skip
        kept = {name: dumped[name] for name in (*_EXCLUSIONS, *_TEMPLATES)}
        return _text_node({**_clean(kept), "relationships": {_SOURCE: source}})
    return _clean(_without_text(dumped))


def plain_fields(point: str, key: str, excluded: Iterable[str]) -> NodeFields:
    """Return the fields of a node for a chunk of another kind of record.

    Args:
        point: Id of the point.
        key: Key of the document.
        excluded: Metadata keys to exclude from the text for embedding and reranking.
    """
    source: NodeFields = {
        "node_id": key, "node_type": None, "metadata": {}, "hash": None,
        "class_name": "RelatedNodeInfo",
    }  # fmt: skip
    fields = {"excluded_embed_metadata_keys": list(excluded), "relationships": {_SOURCE: source}}
    return _text_node({"id_": point, **_clean(fields)})


def unlinked_fields(point: str) -> NodeFields:
    """Return the fields of a node without a document, for a point of another program."""
    return _text_node({"id_": point})


def is_document(node: Any) -> bool:
    """Return True for a LlamaIndex `Document`, which is split, unlike other nodes."""
    return hasattr(node, "doc_id")


def is_chunk(fields: Mapping[str, JsonValue] | None) -> bool:
    """Return True for the fields of a node that must not be split."""
    return fields is not None and fields.get("id_") is not None


def source_id(fields: Mapping[str, Any]) -> str | None:
    """Return the `ref_doc_id` of a node."""
    source = (fields.get("relationships") or {}).get(_SOURCE)
    return str(source["node_id"]) if isinstance(source, Mapping) and "node_id" in source else None


def of_chunk(
    fields: Mapping[str, JsonValue], point: str, start: int, text: str, added: Iterable[str]
) -> NodeFields:
    """Return the fields of one chunk of a document.

    Args:
        fields: Fields of the document; see `fields_of`.
        point: Id of the chunk's point.
        start: Offset of the chunk in the text of the document.
        text: Text of the chunk.
        added: Metadata keys that the loader added.
    """
    excluded = fields["excluded_embed_metadata_keys"]
    own = [key for key in added if isinstance(excluded, list) and key not in excluded]
    return {
        **fields,
        "id_": point,
        "excluded_embed_metadata_keys": [*(excluded if isinstance(excluded, list) else []), *own],
        "start_char_idx": start,
        "end_char_idx": start + len(text),
    }


def embedded_text(fields: Mapping[str, Any], text: str, metadata: Mapping[str, JsonValue]) -> str:
    """Return the text that LlamaIndex embeds: `get_content(metadata_mode=MetadataMode.EMBED)`.

    Raises:
        ValueError: A template of the node has an unknown placeholder.
    """
    excluded = fields.get("excluded_embed_metadata_keys") or ()
    try:
        lines = fields["metadata_separator"].join(
            fields["metadata_template"].format(key=key, value=str(value))
            for key, value in metadata.items()
            if key not in excluded
        )
        if "text_resource" not in fields:
            lines = lines.strip()
        if not lines:
            return text
        whole: str = fields["text_template"].format(content=text, metadata_str=lines)
    except (LookupError, ValueError) as error:
        raise ValueError(f"a template of the node cannot be filled in: {error!r}") from error
    return whole.strip()


def to_node_json(
    fields: Mapping[str, JsonValue], text: str, metadata: Mapping[str, JsonValue]
) -> str:
    """Return the JSON of a node, as `node_to_metadata_dict` of LlamaIndex 0.13 and 0.14.

    Fields are in LlamaIndex's order.
    """
    node: dict[str, Any] = {"id_": fields.get("id_"), "embedding": None, "metadata": metadata}
    for name, value in fields.items():
        if name == "mimetype":
            node["text"] = text
        node[name] = value
    if isinstance(node.get("text_resource"), Mapping):
        node["text_resource"] = {**node["text_resource"], "text": text}
    return orjson.dumps(node).decode()


def from_node_json(node: Mapping[str, Any]) -> tuple[NodeFields, object, object]:
    """Return the fields, the text and the metadata of a parsed node."""
    resource = node.get("text_resource")
    text = resource.get("text") if isinstance(resource, Mapping) else node.get("text")
    return _without_text(node), text, node.get("metadata")


def fields_digest(fields: Mapping[str, JsonValue]) -> str:
    """Hash the fields of a node: those that change without a change of its text, such as ids."""
    content = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:16]


def _text_node(fields: NodeFields) -> NodeFields:
    return {
        "id_": None,
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        "relationships": {},
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "mimetype": "text/plain",
        "start_char_idx": None,
        "end_char_idx": None,
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
        **fields,
    }


def _without_text(node: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in node.items() if name not in _SEPARATE}
    if isinstance(fields.get("text_resource"), Mapping):
        fields["text_resource"] = {**fields["text_resource"], "text": None}
    return fields


def _clean(fields: Mapping[str, Any]) -> NodeFields:
    return {name: to_json(value) for name, value in fields.items()}

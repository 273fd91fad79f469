"""Rebuild the points of the old collection for the new one, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quernstone.errors import ConfigError
from quernstone_qdrant.checks.payloads import PayloadCheck
from quernstone_qdrant.documents.floats import last_bits
from quernstone_qdrant.documents.layouts import LAYOUTS, OWN_KEY, Content, Layout, LayoutName
from quernstone_qdrant.documents.nodes import embedded_text, fields_digest
from quernstone_qdrant.documents.points import content_hash
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.targets import CollectionState, StoredPoint

Origin = Literal["quernstone", "langchain", "llamaindex", "plain"]
"""The program that wrote a point, which determines where the text is and what payload it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A point of the new collection, without its vectors."""

    id: str
    text: str
    """Text to embed."""
    payload: dict[str, Any] = field(repr=False)
    reuses_vector: bool = False
    """True if the old point's full vector is that of `text` by the new model."""
    changed: bool = False
    """True if the old point's content differs from what a loader wrote; its present text counts."""


class Unreadable(Exception):  # noqa: N818 - not a failure of the program
    """A point holds no text to embed. The message says why."""


class Contents:
    """A converter of the points of one collection for another.

    A point that a loader wrote keeps its id, text, metadata and key, and gets the payload and the
    content hash that a load into the new collection would give it, so that later loads skip it. A
    point of another program keeps its id and its payload.

    Args:
        old: Provenance of the old collection; None if another program created it.
        new: Provenance of the new collection.
        foreign: Where the text of other programs' points is.
        text_field: Payload path of the text of `plain` points.
    """

    def __init__(
        self, old: Provenance | None, new: Provenance, foreign: Origin, text_field: str | None
    ) -> None:
        self._old, self._new, self._text_field = old, new, text_field
        self._foreign = foreign
        self._layout = new.settings.payloads
        self._check = None if old is None else PayloadCheck(old)
        self._same_model = old is not None and (
            old.has_vectors_of(new) and not old.mixed and old.settings.datatype == "float32"
        )

    @property
    def reuses_vectors(self) -> bool:
        """True if the vectors of unchanged points are copied instead of computed."""
        return self._same_model

    def rebuild(self, point: StoredPoint) -> Rebuilt:
        """Return the point for the new collection.

        Raises:
            Unreadable: It has no text.
        """
        checked = self._check(point) if self._check is not None else None
        if checked is None or self._old is None or not isinstance(point.payload[OWN_KEY], dict):
            return self._foreign_point(point)
        own = point.payload[OWN_KEY]
        if not isinstance(own.get("key"), str) or not isinstance(own.get("chunk"), int):
            return self._foreign_point(point)
        content = checked.content or self._old.settings.payloads.read(point.payload)
        is_intact = checked.content is not None and not checked.changed
        return self._own_point(point, own, content, is_intact=is_intact)

    def _own_point(
        self, point: StoredPoint, own: Mapping[str, Any], content: Content, *, is_intact: bool
    ) -> Rebuilt:
        layout, node = self._layout, content.node if self._layout.node else None
        source = str(own.get("source", ""))
        embedded = None
        try:
            if node is not None and layout.embed_metadata:
                embedded = embedded_text(node, content.text, content.node_metadata or {})
            # The metadata of a node is in its JSON, in the order in which it is embedded.
            metadata = dict(content.metadata if node is None else content.node_metadata or {})
            if node is None and content.node is not None:
                metadata.setdefault("chunk", own["chunk"])  # as a load into such a layout does
            new: dict[str, Any] = {
                name: value
                for name, value in own.items()
                if name in ("key", "chunk", "last", "source")
            }
            new["hash"] = content_hash(
                layout,
                self._new.fingerprint,
                own["key"],
                own["chunk"],
                content.text,
                metadata,
                source,
                embedded,
            )
            new["floats"] = last_bits(metadata)
            if node is not None:
                new["node"] = fields_digest(node)
            payload: dict[str, Any] = layout.payload(
                point=point.id,
                key=own["key"],
                text=content.text,
                metadata=metadata,
                own=new,
                node=node,
            )
        except (TypeError, ValueError) as error:
            raise Unreadable(f"its payload cannot be rebuilt: {error}") from error
        return Rebuilt(
            id=point.id,
            text=content.text if embedded is None else embedded,
            payload=payload,
            reuses_vector=self._same_model
            and is_intact
            and content.embedded == (content.text if embedded is None else embedded),
            changed=not is_intact,
        )

    def _foreign_point(self, point: StoredPoint) -> Rebuilt:
        payload = dict(point.payload)
        if self._foreign == "plain":
            text = _at(payload, self._text_field or "text")
            if isinstance(text, str) and self._text_field not in (None, "text"):
                payload["text"] = text
        else:
            layout = LAYOUTS["langchain" if self._foreign == "quernstone" else self._foreign]
            if self._foreign == "quernstone" and self._old is not None:
                layout = self._old.settings.payloads
            text = _foreign_text(layout, payload)
        if not isinstance(text, str) or not text:
            kind = "no text" if text in (None, "") else f"a {type(text).__name__}"
            raise Unreadable(f"its payload has {kind} in {self._where()}")
        return Rebuilt(id=point.id, text=text, payload=payload)

    def _where(self) -> str:
        if self._foreign == "plain":
            return f"`{self._text_field or 'text'}`"
        if self._foreign == "llamaindex":
            return "`_node_content`"
        if self._foreign == "quernstone" and self._old is not None:
            return f"`{self._old.settings.text_field or '_node_content'}`"
        return "`page_content`"


def _foreign_text(layout: Layout, payload: Mapping[str, Any]) -> str:
    """Return the text that the framework embeds."""
    if not layout.node or layout.text_field or "_node_content" not in payload:
        return layout.read(payload).text
    marked = {**payload, OWN_KEY: {"node": ""}}  # read the fields of the node
    try:
        return layout.read(marked).embedded
    except (LookupError, ValueError) as error:
        raise Unreadable(str(error)) from error


def _at(payload: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path of names with dots between them."""
    if path in payload:
        return payload[path]
    value: Any = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def origin_of(sample: list[StoredPoint], text_field: str | None, collection: str) -> Origin:
    """Detect the program that wrote a collection, from a sample of its points.

    Raises:
        CollectionError: The text is not where a known program keeps it.
    """
    if text_field is not None:
        return "plain"
    if any("_node_content" in point.payload for point in sample):
        return "llamaindex"
    if any("page_content" in point.payload for point in sample):
        return "langchain"
    if any("text" in point.payload for point in sample):
        return "plain"
    fields = sorted({name for point in sample for name in point.payload})
    raise CollectionError(
        collection,
        f"the text of its points is not in `page_content` (LangChain), `_node_content` "
        f"(LlamaIndex) or `text`: name the field by `text_field` (--text-field); its fields are: "
        f"{', '.join(fields) or 'none'}",
    )


def foreign_vector(state: CollectionState, wanted: str | None, collection: str) -> str:
    """Return the name of the dense vector of a collection of another program.

    Raises:
        ConfigError: It has several, or none by this name.
    """
    names = [name for name, vector in state.vectors.items() if not vector.multivector]
    if wanted is not None and wanted in names:
        return wanted
    if wanted is None and len(names) == 1:
        return names[0]
    raise ConfigError(
        f"collection {collection!r} has the dense vectors {', '.join(map(repr, names)) or 'none'}; "
        "name one of them by `vector_name` (--vector-name)"
    )


def foreign_layout(origin: Origin) -> LayoutName:
    """Return the layout in which a searcher reads points of a program."""
    return "plain" if origin == "quernstone" else origin


def kept_indexes(state: CollectionState, layout: Layout) -> tuple[dict[str, Any], list[str]]:
    """Return the payload indexes of another program as settings, and notes on the others."""
    kept: dict[str, Any] = {}
    notes = []
    for path, kind in state.payload_indexes.items():
        name = path.removeprefix("metadata.") if layout.nested else path
        if layout.field(name) == path and name.replace("_", "").isalnum():
            kept[name] = kind
        elif path not in ("doc_id",):
            notes.append(f"the payload index of `{path}` ({kind}) is not kept")
    return kept, notes


def lost_vectors(state: CollectionState, used: str, old: Provenance | None) -> Iterator[str]:
    """Describe the vectors of the old collection that the new one cannot have."""
    known = {used, *state.unused}
    if old is not None:
        known |= {*old.settings.vectors(old.dimensions), "bm25"}
    for name in (*state.vectors, *state.sparse):
        if name not in known:
            yield f"the vectors `{name}` are not kept: another program computes them"

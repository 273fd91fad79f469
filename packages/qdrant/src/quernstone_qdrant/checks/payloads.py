"""Check the payload of a point against its hash, and the copies of its content with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from quernstone_qdrant.documents.floats import holds_float, last_bits, restore
from quernstone_qdrant.documents.layouts import OWN_KEY, Content
from quernstone_qdrant.documents.nodes import fields_digest
from quernstone_qdrant.documents.points import content_hash, point_id
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.targets import StoredPoint


@dataclass(slots=True)
class CheckedPayload:
    """The payload of a point that a loader wrote."""

    name: str
    """Describes the point in messages."""
    key: str = ""
    number: int = 0
    """Number of the chunk in the document with key `key`."""
    last: bool | None = None
    """True for the last chunk of its document; None if an older version wrote the point."""
    problems: list[str] = field(default_factory=list)
    content: Content | None = None
    """The content that was loaded, with exact floats; None if no copy of it matches the hash."""
    changed: dict[str, Any] = field(default_factory=dict)
    """Fields that differ from `content`, with their correct values."""
    identified: bool = False
    """True if the point has the id of its document and chunk."""
    rounded: bool = False
    """True if Qdrant rounded floats of the payload, by at most one part in 2^50."""
    unchecked: bool = False
    """True if the hash does not match, but rounded floats may explain that: an older version wrote
    the point, and did not store the last bits of its floats."""


class PayloadCheck:
    """A check of the payloads of one collection."""

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self._layout = provenance.settings.payloads

    def __call__(self, point: StoredPoint) -> CheckedPayload | None:
        """Check a payload; return None if no loader wrote the point."""
        own = point.payload.get(OWN_KEY)
        if not isinstance(own, dict):
            return None
        key, number = own.get("key"), own.get("chunk")
        if not isinstance(key, str) or not isinstance(number, int):
            name = f"point {point.id}"
            return CheckedPayload(name, problems=[f"its payload field `{OWN_KEY}` is damaged"])
        checked = CheckedPayload(
            f"point {point.id} (record {key!r}, chunk {number})",
            key,
            number,
            own.get("last") if isinstance(own.get("last"), bool) else None,
            identified=point.id == point_id(self._provenance.namespace, key, number),
        )
        if not checked.identified:
            checked.problems.append("its id does not match its record and chunk")
        for content in self._copies(point, own):
            if self._hash(own, content) == own.get("hash"):
                checked.content = content
                self._compare(checked, point, own, content)
                return checked
        if self._may_be_rounded(point, own):
            checked.unchecked = True
        else:
            checked.problems.append("its text, metadata or source differs from what was loaded")
        return checked

    def _copies(self, point: StoredPoint, own: dict[str, Any]) -> Iterator[Content]:
        """Yield the copies of the content in a payload, with exact floats where they are known."""
        for content in self._layout.copies(point.payload):
            bits = own.get("floats")
            if isinstance(bits, str):
                try:
                    metadata = restore(content.metadata, bits)
                except ValueError:  # a float was added or removed, so this copy was changed
                    continue
                yield replace(content, metadata=metadata)
            else:
                yield content

    def _hash(self, own: dict[str, Any], content: Content) -> str | None:
        if content.node is not None and fields_digest(content.node) != own.get("node"):
            return None
        try:
            return content_hash(
                self._layout,
                self._provenance.fingerprint,
                own["key"],
                own["chunk"],
                content.text,
                content.metadata,
                str(own.get("source", "")),
                content.embedded if content.has_embedded_metadata else None,
            )
        # A number beyond 64 bits, or a template that cannot be filled in: no loader writes them.
        except (TypeError, ValueError):
            return None

    def _may_be_rounded(self, point: StoredPoint, own: dict[str, Any]) -> bool:
        # A node is JSON in a string, whose floats are never rounded.
        return (
            "floats" not in own
            and not self._layout.node
            and holds_float(self._layout.read(point.payload).metadata)
        )

    def _compare(
        self, checked: CheckedPayload, point: StoredPoint, own: dict[str, Any], content: Content
    ) -> None:
        """Compare every field with the content: frameworks read fields that are copies of it."""
        plain = {name: value for name, value in own.items() if name != "metadata"}
        if "floats" in own:
            plain["floats"] = last_bits(content.metadata)
        if "node_id" in own and content.node is not None:
            plain["node_id"] = content.node.get("id_")
        expected = self._layout.payload(
            point=point.id,
            key=own["key"],
            text=content.text,
            metadata=content.metadata,
            own=plain,
            node=content.node,
        )
        for name, value in expected.items():
            stored = point.payload.get(name)
            if not self._layout.equal(name, stored, value):
                checked.changed[name] = value
            elif stored != value and name != "_node_content":
                checked.rounded = True
        if checked.changed:
            fields = ", ".join(f"`{name}`" for name in checked.changed)
            checked.problems.append(f"{fields} changed since the load")

"""Keep a load from replacing the documents of another source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from quernstone_qdrant.documents.deadletter import Failure
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import Point, content_hash, point_id, stored_hash
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import CollectionError, RecordError
from quernstone_qdrant.loading.pipeline import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGuard:
    """A check that a batch only replaces documents of its own sources.

    A document whose first chunk is unchanged has only moved to another source, which is allowed. A
    stored document without a source may also be replaced.
    """

    collection: str
    namespace: UUID
    fingerprint: str
    replace_sources: bool
    """Count the documents of other sources that are replaced, instead of refusing them."""
    allow_renames: bool
    """Accept rows that are stored under another key, because the load prunes the old ones."""
    skip_errors: bool

    def extra_ids(self, batch: Batch) -> list[str]:
        """Return the ids of points to look up, besides those of the batch."""
        if self.allow_renames:
            return []
        return [self._point(record.alias) for record in _first_chunks(batch) if record.alias]

    def check(self, batch: Batch, stored: Mapping[str, dict[str, Any]]) -> None:
        """Move records of other sources' documents to `failures`, or count them in `replaced`.

        Args:
            batch: A batch whose `points` are all its chunks.
            stored: The payloads that are stored for the batch and `extra_ids`.

        Raises:
            CollectionError: Rows are stored under their row numbers, and would be stored again.
        """
        if not self.allow_renames:
            self._check_aliases(batch, stored)
        conflicts: dict[str, RecordError] = {}
        for place, point in enumerate(batch.points):
            record, payload = point.chunk.record, stored.get(point.id)
            source = _own(payload).get("source")
            if point.chunk.number or not isinstance(source, str) or source == record.source:
                continue
            if payload is None or self._is_moved(point, payload, source):
                continue
            if self.replace_sources:
                batch.replaced += 1
                continue
            conflicts[record.key] = _conflict(record, source)
            batch.failures.append(Failure(conflicts[record.key], record))
            if not self.skip_errors:  # only the points before this one are written
                batch.lost = True
                del batch.points[place:]
                break
        batch.refuse(conflicts)

    def _check_aliases(self, batch: Batch, stored: Mapping[str, dict[str, Any]]) -> None:
        for record in _first_chunks(batch):
            own = _own(stored.get(self._point(record.alias))) if record.alias else {}
            if own.get("key") == record.alias and own.get("source", "") == record.source:
                raise CollectionError(
                    self.collection,
                    f"the row with the id {record.key!r} is stored as {record.alias!r}, by a load "
                    "without --id-field (`id_field`), and loading the rows by their ids would "
                    "store each of them twice: pass --prune (`prune=True`), which deletes the "
                    "rows stored without ids, or load without an id field as before",
                )

    def _is_moved(self, point: Point, payload: dict[str, Any], source: str) -> bool:
        """Return True if the stored chunk differs from `point` only in its source."""
        chunk = point.chunk
        before = content_hash(
            point.layout,
            self.fingerprint,
            chunk.record.key,
            chunk.number,
            chunk.text,
            point.metadata,
            source,
            point.embedded,
        )
        return before == stored_hash(payload)

    def _point(self, key: str, number: int = 0) -> str:
        return point_id(self.namespace, key, number)


def _first_chunks(batch: Batch) -> list[Record]:
    return [point.chunk.record for point in batch.points if point.chunk.number == 0]


def _own(payload: dict[str, Any] | None) -> dict[str, Any]:
    own = (payload or {}).get(OWN_KEY)
    return own if isinstance(own, dict) else {}


def _conflict(record: Record, source: str) -> RecordError:
    return RecordError(
        record.key,
        f"it comes from {record.source!r} and would replace the document of this key from "
        f"{source!r}: pass --replace-sources (`replace_sources=True`) to allow that, or separate "
        "the two with --namespace NAME (`ReadOptions(namespace=...)`)",
    )

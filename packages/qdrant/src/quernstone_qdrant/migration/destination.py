"""Read the old collection of a migration, and create the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from uuid import uuid4

from quernstone.errors import ConfigError
from quernstone_qdrant.checks.indexes import indexed_paths
from quernstone_qdrant.documents.points import collection_namespace
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.migration.contents import (
    Contents,
    Origin,
    foreign_layout,
    foreign_vector,
    kept_indexes,
    lost_vectors,
    origin_of,
)
from quernstone_qdrant.migration.joining import MIGRATION_KEY, carried_metadata
from quernstone_qdrant.migration.switching import Pair, migration_record
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import CollectionState, StoredPoint

_SAMPLE = 100
_KEPT = ("layout", "bm25", "language", "bm25_rule", "node_rule", "embed_metadata", "indexes")
"""Settings that stay as in the old collection if a preset is requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The old collection."""

    state: CollectionState
    provenance: Provenance | None
    """None if another program created it."""
    origin: Origin
    vector: str
    """Name of the dense vector."""
    text_field: str | None
    notes: tuple[str, ...]
    """Properties that are not kept, in words."""
    base: CollectionSettings
    """Settings of the new collection before any request."""

    @classmethod
    def read(
        cls, pair: Pair, retry: Retry, text_field: str | None, vector_name: str | None
    ) -> Source:
        """Read the old collection and detect the program that created it.

        Raises:
            CollectionError: Its text is not where a known program keeps it.
            ConfigError: It has several dense vectors and none was named.
        """
        state = retry.call(pair.old.state)
        provenance = Provenance.read(state)
        if provenance is not None:
            settings = provenance.settings
            if settings.prefix == max(provenance.dimensions // 4, 32):
                settings = replace(settings, prefix="auto")
            vector = settings.vector
            origin: Origin = "plain" if text_field is not None else "quernstone"
            notes = list(lost_vectors(state, vector, provenance))
            known = indexed_paths(settings)
            notes += [
                f"the payload index of `{path}` ({kind}) is not in the settings: not kept"
                for path, kind in state.payload_indexes.items()
                if path not in known
            ]
        else:
            sample = retry.call(lambda: _sample(pair))
            origin = origin_of(sample, text_field, pair.name) if sample else "plain"
            vector = foreign_vector(state, vector_name, pair.name)
            layout = CollectionSettings(layout=foreign_layout(origin)).payloads
            indexes, notes = kept_indexes(state, layout)
            notes += lost_vectors(state, vector, None)
            settings = CollectionSettings(layout=layout.name, indexes=indexes, vector=vector)
            notes.append(
                "its points keep their ids and payloads; a later load of the same documents would "
                "add them again, with ids of its own"
            )
            if text_field not in (None, "text"):
                notes.append(f"the payload field `text` is a copy of `{text_field}`")
        return cls(
            state=state,
            provenance=provenance,
            origin=origin,
            vector=vector,
            text_field=text_field,
            notes=tuple(notes),
            base=settings,
        )

    @property
    def dimensions(self) -> int:
        """Size of the dense vector."""
        return self.state.vectors[self.vector].size

    def contents(self, new: Provenance) -> Contents:
        """Return the converter of its points for the new collection."""
        return Contents(self.provenance, new, self.origin, self.text_field)

    def settings(self, overrides: SettingsOverrides, dimensions: int) -> CollectionSettings:
        """Return the settings of the new collection. A preset keeps layout, BM25 and indexes."""
        settings = overrides.apply_to(self.base)
        if overrides.preset is not None and not isinstance(overrides.preset, CollectionSettings):
            kept = {
                name: getattr(self.base, name)
                for name in _KEPT
                if name not in overrides.changes
                and not (name == "layout" and overrides.layout is not None)
                and not (name in ("bm25", "bm25_rule") and overrides.hybrid is not None)
            }
            settings = replace(settings, **kept)
        if (
            self.base.bm25 is None
            and settings.bm25 is not None
            and "bm25_rule" not in overrides.changes
        ):
            settings = replace(settings, bm25_rule="auto")
        return settings.resolved(dimensions)

    def wanted(
        self, embedder: TextEmbedder, overrides: SettingsOverrides, collection: str
    ) -> Provenance:
        """Return the provenance of the new collection.

        Raises:
            ConfigError: It would be equal to the old one.
        """
        new = Provenance.of(embedder, collection)
        old = self.provenance
        namespace = collection_namespace(collection) if old is None else old.namespace
        settings = self.settings(overrides, new.dimensions)
        new = replace(new, namespace=namespace, settings=settings, identity=uuid4().hex)
        if (
            old is not None
            and not old.mixed
            and old.has_vectors_of(new)
            and not settings.differences(old.settings)
        ):
            raise ConfigError(
                f"collection {collection!r} has the model {old.model!r}, {old.dimensions} "
                "dimensions and these settings already: request another model or setting"
            )
        return new


def _sample(pair: Pair) -> list[StoredPoint]:
    return list(islice(pair.old.scroll(None, batch=_SAMPLE), _SAMPLE))


def open_destination(pair: Pair, source: Source, wanted: Provenance, retry: Retry) -> Provenance:
    """Create the new collection, or check that an existing one belongs to this migration.

    The migration is recorded in both collections, in the old one first, so that a rerun finds the
    new one.

    Raises:
        CollectionError: A collection of that name exists, or another migration is under way.
    """
    old, new = pair.old, pair.new
    if not pair.switched and migration_record(source.state).get("to") != new.collection:
        note: Mapping[str, Any] = {"to": new.collection, "model": wanted.model}
        retry.call(lambda: old.describe({MIGRATION_KEY: note}))
    if not retry.call(new.exists):
        created = {"from": old.collection, "to": new.collection, "model": wanted.model}
        metadata = {
            **carried_metadata(source.state),
            **wanted.metadata(),
            MIGRATION_KEY: created,
        }
        retry.call(lambda: new.create(wanted.settings, wanted.dimensions, metadata))
    state = retry.call(new.state)
    found, record = Provenance.read(state), migration_record(state)
    # Edge exchanges the names of both collections.
    if found is None or record.get("to") not in (new.collection, old.collection):
        raise CollectionError(
            new.collection,
            f"it exists, but it is not that of a migration of {old.collection!r}: name another "
            "collection, or delete it first",
        )
    differences = wanted.settings.differences(found.settings)
    if not found.has_vectors_of(wanted) or differences:
        settings = "".join(f", {name}={value!r}" for name, value, _ in differences)
        raise CollectionError(
            new.collection,
            f"a migration to {found.model!r} with {found.dimensions} dimensions{settings} is under "
            "way: continue it with the same model and settings, or abandon it by `rollback("
            "delete=True)` (--rollback --delete)",
        )
    retry.call(lambda: new.create_indexes(found.settings))
    return found

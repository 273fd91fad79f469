"""The record of a migration in place, and the checks before one begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from quernstone.errors import ConfigError
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.migration.joining import MIGRATION_KEY
from quernstone_qdrant.migration.switching import migration_record
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.settings import BM25, PREFIX
from quernstone_qdrant.targets import ClientTarget, CollectionState, Target
from quernstone_qdrant.targets.base import METADATA_KEY
from quernstone_qdrant.targets.configuration import ADDS_VECTORS_SINCE, version_of
from quernstone_qdrant.targets.edge import EdgeTarget

_VECTOR = "vector"
_SECOND_COLLECTION = "leave out `in_place` (--in-place) to migrate to a second collection beside it"


@dataclass(frozen=True, slots=True, kw_only=True)
class InPlaceRecord:
    """Both states of a collection, as a migration in place stores them in its metadata."""

    old: Provenance
    new: Provenance
    """Its `settings.vector` is the vector that is added."""

    @classmethod
    def read(cls, state: CollectionState) -> InPlaceRecord | None:
        """Read the record; None if no migration in place is under way."""
        stored = migration_record(state)
        if _VECTOR not in stored:
            return None
        old, new = (
            Provenance.read(replace(state, metadata={METADATA_KEY: stored[name]}))
            for name in ("old", "new")
        )
        if old is None or new is None:
            raise ConfigError("the record of the migration in place is damaged")
        return cls(old=old, new=new)

    def metadata(self) -> dict[str, Any]:
        """Build the metadata to store with the collection."""
        old, new = (one.metadata()[METADATA_KEY] for one in (self.old, self.new))
        return {
            MIGRATION_KEY: {_VECTOR: self.new.settings.vector, "old": old, "new": new},
        }

    def is_switched(self, state: CollectionState) -> bool:
        """Return True if the collection records the new model."""
        now = Provenance.read(state)
        return now is not None and now.settings.vector == self.new.settings.vector


def planned_record(
    target: Target,
    state: CollectionState,
    embedder: TextEmbedder,
    overrides: SettingsOverrides,
    vector: str | None,
) -> InPlaceRecord:
    """Return the record of a new migration in place.

    Args:
        target: The collection itself, not an alias.
        state: Its state.
        embedder: Embedder of the new vector.
        overrides: Requested settings, which must be those of the collection.
        vector: Name of the new vector; None: derive it from the model.

    Raises:
        ConfigError: The collection has this model already, or cannot be migrated in place. The
            error names each obstacle.
    """
    old, new = Provenance.read(state), Provenance.of(embedder, target.collection)
    obstacles = list(_obstacles(target, state, old, overrides))
    if vector is not None and vector in ("", PREFIX, BM25, *state.vectors, *state.sparse):
        obstacles.append(f"the new vector cannot have the name {vector!r}: it is taken or reserved")
    if old is None or obstacles:
        raise ConfigError(
            f"collection {target.collection!r} cannot be migrated in place: "
            f"{'; '.join(obstacles)}. Instead, {_SECOND_COLLECTION}"
        )
    if old.has_vectors_of(new) and not old.mixed:
        raise ConfigError(
            f"collection {target.collection!r} has the model {old.model!r} and {old.dimensions} "
            "dimensions already: request another model"
        )
    settings = replace(old.settings, vector=vector or _free_name(state, embedder.model))
    new = replace(
        new,
        namespace=old.namespace,
        settings=settings,
        identity=uuid4().hex,
        hash_salt=old.fingerprint,
    )
    return InPlaceRecord(old=old if old.identity else replace(old, identity=uuid4().hex), new=new)


def in_place_note(target: Target, state: CollectionState, overrides: SettingsOverrides) -> str:
    """Describe whether a migration in place is possible, for the plan of another migration."""
    obstacles = list(_obstacles(target, state, Provenance.read(state), overrides))
    if obstacles:
        return f"in place is not possible: {'; '.join(obstacles)}"
    return "`in_place` (--in-place) is possible: it stores no payload twice"


def _obstacles(
    target: Target, state: CollectionState, old: Provenance | None, overrides: SettingsOverrides
) -> Iterator[str]:
    """Yield each reason why the collection cannot be migrated in place."""
    if isinstance(target, ClientTarget) and target.kind == "server":
        if (version_of(target.version) or (0, 0)) < ADDS_VECTORS_SINCE:
            yield (
                "a server can add vectors from Qdrant 1.18 on, but this one is "
                f"{target.version or 'of an unknown version'}"
            )
    elif not isinstance(target, ClientTarget | EdgeTarget):
        yield f"a collection of {type(target).__name__} cannot get another vector"
    record = migration_record(state)
    if (record.get("to") or record.get("from")) and _VECTOR not in record:
        yield "a migration to a second collection is under way: finish it, or roll it back"
    if old is None:
        yield (
            "another program created it, so its points have no hash by which a late change of a "
            "text is noticed"
        )
        return
    if old.settings.prefix is not None:
        yield f"it has a short vector `{PREFIX}` beside the full one"
    for name in state.vectors:
        if name not in old.settings.vectors(old.dimensions) and name not in state.unused:
            yield f"it has another dense vector `{name}`"
    for name, value, wanted in overrides.apply_to(old.settings).differences(old.settings):
        yield f"`{name}` is {value!r}, and a change to {wanted!r} needs new payloads or vectors"


def _free_name(state: CollectionState, model: str) -> str:
    taken = {*state.vectors, *state.sparse, PREFIX, BM25}
    base = re.sub("[^A-Za-z0-9.]+", "-", Path(model).name).strip("-.").lower() or "vector"
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name

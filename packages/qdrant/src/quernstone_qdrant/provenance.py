"""Record which model computed a collection's vectors, and check it whenever they are used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

from quernstone.types import EngineInfo
from quernstone_qdrant.documents.points import collection_namespace
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.errors import (
    CollectionError,
    ProvenanceError,
)
from quernstone_qdrant.overrides import NO_OVERRIDES, SettingsOverrides
from quernstone_qdrant.reconcile import adopted_settings, reconcile, updated_settings
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import CollectionState, Target
from quernstone_qdrant.targets.base import IDENTITY_PREFIX, METADATA_KEY

_ADOPTION_SECONDS = 1.0
"""Seconds to wait after adopting a collection. If several loaders adopt it at once, the last record
wins, and after this time all of them read that one."""
METADATA_PATIENCE = 5.0
"""Seconds until a cluster must show metadata that it has accepted."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of the vectors in a collection.

    The model, its revision and the size of the vectors are compared whenever the collection is
    used. The other fields are informative: a collection loaded in bfloat16 on a GPU may be searched
    in float32 on a laptop, and each query may have another prompt.
    """

    model: str
    revision: str
    """Digest of the model's files if the embedder knows it, else its `revision`."""
    dimensions: int
    dtype: str
    namespace: UUID
    """Namespace of all point ids in the collection. It stays when an alias renames it."""
    settings: CollectionSettings = field(default_factory=CollectionSettings)
    """Settings of the collection, with each `auto` resolved."""
    engine: str = ""
    """Name of the engine that ran the model."""
    query_prompt: str = ""
    """Prompt of queries, with the placeholder `{query}`."""
    adapter: str = ""
    """The LoRA adapter that was merged into the model."""
    document_prompt: str = "{text}"
    """Prompt of documents, with the placeholder `{text}`, if the embedder shows it."""
    loader: str = field(default_factory=lambda: version("quernstone-qdrant"))
    """Version of this package that created the collection."""
    mixed: tuple[Mapping[str, str], ...] = ()
    """Other models whose vectors `allow_mismatch` admitted, each with `model`, `revision`, `dtype`
    and `loader`."""
    identity: str = ""
    """Random id of the collection; see `CollectionState.identity`."""
    hash_salt: str = ""
    """After a migration in place: the `fingerprint` of the model that created the collection, which
    stays part of the content hashes, so that no payload changes. Empty in other collections."""

    @classmethod
    def of(cls, embedder: TextEmbedder, collection: str) -> Provenance:
        """Return the provenance of a new collection with `embedder` and the default settings."""
        return cls(
            model=embedder.model,
            # The digest is equal for a hub commit and a local copy of its files. Only
            # `quernstone.Embedder` has one.
            revision=getattr(embedder, "digest", "") or embedder.revision,
            dimensions=embedder.dimensions,
            dtype=embedder.info.dtype,
            namespace=collection_namespace(collection),
            engine=_engine(embedder.info),
            adapter=str(getattr(embedder, "adapter", "")),
            query_prompt=embedder.format_query("{query}"),
            document_prompt=_document_prompt(embedder),
        )

    @classmethod
    def read(cls, state: CollectionState) -> Provenance | None:
        """Read the provenance of a collection; None if another program created it."""
        stored = state.metadata.get(METADATA_KEY)
        if not isinstance(stored, dict):
            return None
        prompts = stored.get("prompts") or {}
        return cls(
            model=str(stored.get("model")),
            revision=str(stored.get("revision")),
            dimensions=int(stored.get("dimensions", 0)),
            dtype=str(stored.get("dtype")),
            namespace=UUID(str(stored.get("namespace"))),
            settings=CollectionSettings.from_json(stored.get("settings") or {}),
            engine=str(stored.get("engine", "")),
            adapter=str(stored.get("adapter", "")),
            query_prompt=str(prompts.get("query", "")),
            document_prompt=str(prompts.get("document", "{text}")),
            loader=str(stored.get("loader", "")),
            mixed=tuple(stored.get("mixed") or ()),
            identity=state.identity,
            hash_salt=str(stored.get("hash_salt", "")),
        )

    @property
    def fingerprint(self) -> str:
        """The part of every point's content hash that does not depend on its content."""
        return self.hash_salt or f"{self._identity};{self.dimensions}"

    @property
    def _identity(self) -> str:
        """The revision if known: unlike a local path, it is equal on every machine."""
        return self.revision or self.model

    def is_model_of(self, wanted: Provenance) -> bool:
        """Return True if both have the same model in the same revision."""
        return self._identity == wanted._identity

    def has_vectors_of(self, wanted: Provenance) -> bool:
        """Return True if both have the same model and the same number of dimensions."""
        return self.is_model_of(wanted) and self.dimensions == wanted.dimensions

    def check(self, wanted: Provenance, collection: str, *, allow_mismatch: bool = False) -> None:
        """Raise an error if another embedder computed this collection's vectors.

        Args:
            wanted: Provenance of the embedder.
            collection: Name of the collection, for the message.
            allow_mismatch: Accept another model or revision, but not another vector size.

        Raises:
            ProvenanceError: The model, adapter, prompt, revision or vector size differs.
        """
        differs = not (allow_mismatch or self.is_model_of(wanted))
        for name in ("model", "adapter", "document_prompt", "revision") if differs else ():
            recorded, expected = getattr(self, name), getattr(wanted, name)
            if recorded != expected:
                raise ProvenanceError(collection, name.replace("_", " "), recorded, expected)
        if self.dimensions != wanted.dimensions:
            raise ProvenanceError(collection, "dimensions", self.dimensions, wanted.dimensions)

    def metadata(self) -> dict[str, Any]:
        """Build the metadata to store with the collection."""
        return {
            METADATA_KEY: {
                "model": self.model,
                "revision": self.revision,
                "dimensions": self.dimensions,
                "dtype": self.dtype,
                "engine": self.engine,
                **({"adapter": self.adapter} if self.adapter else {}),
                "prompts": {"document": self.document_prompt, "query": self.query_prompt},
                "namespace": str(self.namespace),
                "settings": self.settings.to_json(),
                "loader": self.loader,
                "mixed": [dict(other) for other in self.mixed],
                **({"identity": self.identity} if self.identity else {}),
                **({"hash_salt": self.hash_salt} if self.hash_salt else {}),
            }
        }

    def mixed_with(self, other: Provenance) -> Provenance:
        """Return a copy that also records another model."""
        entry = {
            "model": other.model,
            "revision": other.revision,
            "dtype": other.dtype,
            "loader": other.loader,
        }
        return self if entry in self.mixed else replace(self, mixed=(*self.mixed, entry))


def _engine(info: EngineInfo) -> str:
    """Return the engine that runs the model, which may be that of a `quern serve`."""
    return info.engine if info.served is None else info.served.engine


def _document_prompt(embedder: TextEmbedder) -> str:
    """Return the prompt of documents; only `quernstone.Embedder` shows it."""
    render = getattr(embedder, "format_document", None)
    return str(render("{text}")) if callable(render) else "{text}"


def check_provenance(
    state: CollectionState, collection: str, wanted: Provenance, *, allow_mismatch: bool = False
) -> Provenance:
    """Return the collection's provenance after checking it against the embedder's.

    Raises:
        CollectionError: The collection does not record its model.
        ProvenanceError: It was created with another model, revision or vector size.
    """
    recorded = Provenance.read(state)
    if recorded is None:
        raise CollectionError(
            collection,
            "it does not record which model computed its vectors, so they may not match; "
            "load into a new collection",
        )
    recorded.check(wanted, collection, allow_mismatch=allow_mismatch)
    return recorded


def prepare_collection(
    target: Target,
    embedder: TextEmbedder,
    overrides: SettingsOverrides = NO_OVERRIDES,
    *,
    allow_mismatch: bool = False,
    note: Callable[[str], None] = lambda _: None,
    patience: float = 0.0,
) -> Provenance:
    """Create the collection for the vectors of `embedder`, or check that an existing one fits.

    If several loaders create it at once, all of them use the one that came first. An empty
    collection of another program is adopted if it fits. Requested settings that can change in place
    are changed, and payload indexes that are missing are created.

    Args:
        target: The collection, which may be missing.
        embedder: Embedder of the vectors.
        overrides: Requested settings, for a new or an existing collection.
        allow_mismatch: Accept a collection of another model, and record the second model in it.
        note: Called with each change of an existing collection, in words.
        patience: Seconds in which to retry each request that fails temporarily.

    Raises:
        CollectionError: The collection cannot store these vectors, does not record its model, or
            has other settings.
        ProvenanceError: It was created with another model, revision or vector size.
    """
    wanted = replace(Provenance.of(embedder, target.collection), identity=uuid4().hex)
    retry = Retry(patience)
    changes: dict[str, None] = {}  # a dict, so that a change that is retried is noted once
    if retry.call(target.exists):
        state = retry.call(target.state)
    else:
        settings = overrides.apply_to(CollectionSettings()).resolved(wanted.dimensions)
        created = replace(wanted, settings=settings)
        retry.call(lambda: target.create(settings, created.dimensions, created.metadata()))
        state = retry.call(lambda: _described_state(target))
    if Provenance.read(state) is None and not retry.call(target.count):
        state = _adopt(target, state, wanted, overrides, retry, changes.setdefault)
    recorded = check_provenance(state, target.collection, wanted, allow_mismatch=allow_mismatch)
    updated = retry.call(
        lambda: _with_settings(target, state, recorded, overrides, changes.setdefault)
    )
    for change in changes:
        note(change)
    if not recorded.is_model_of(wanted):
        updated = updated.mixed_with(wanted)
    if wanted.identity in state.identities:  # this loader created or adopted it
        recorded, updated = (replace(p, identity=wanted.identity) for p in (recorded, updated))
    elif not recorded.identity and target.kind == "server":  # an older version created it
        updated = replace(updated, identity=wanted.identity)
    if updated != recorded:  # recorded last, after the server has confirmed the changes
        key = _identity_key(wanted) if updated.identity == wanted.identity else {}
        retry.call(lambda: target.describe({**updated.metadata(), **key}))
    return updated


def _adopt(
    target: Target,
    state: CollectionState,
    wanted: Provenance,
    overrides: SettingsOverrides,
    retry: Retry,
    note: Callable[[str], None],
) -> CollectionState:
    """Record a model in an empty collection that another program created; return its new state."""
    settings = adopted_settings(
        state, overrides, wanted.dimensions, embedded=target.kind == "embedded"
    )
    adopted = replace(wanted, settings=settings)
    retry.call(
        lambda: reconcile(target, state, settings, adopted.dimensions, requested=None, note=note)
    )
    retry.call(lambda: target.describe({**adopted.metadata(), **_identity_key(adopted)}))
    if target.kind == "server":
        time.sleep(_ADOPTION_SECONDS)
    described = retry.call(lambda: _described_state(target))
    if Provenance.read(described) is None:
        raise CollectionError(
            target.collection,
            "the server does not store collection metadata; upgrade it to Qdrant 1.16 or newer",
        )
    return described


def _identity_key(provenance: Provenance) -> dict[str, bool]:
    """Return the metadata that names a collection's identity in its key.

    If several loaders adopt a collection at once, it keeps the keys of all of them.
    """
    return {f"{IDENTITY_PREFIX}{provenance.identity}": True}


def change_settings(
    target: Target, overrides: SettingsOverrides, *, note: Callable[[str], None] = lambda _: None
) -> Provenance:
    """Change settings of an existing collection in place, without a model.

    Args:
        target: The collection.
        overrides: The requested settings.
        note: Called with each change, in words.

    Raises:
        CollectionError: The collection does not record its model, or a setting cannot change.
    """
    state = target.state()
    recorded = Provenance.read(state)
    if recorded is None:
        raise CollectionError(
            target.collection, "another program created it; only collections of ours can change"
        )
    updated = _with_settings(target, state, recorded, overrides, note)
    if updated != recorded:
        target.describe(updated.metadata())
    return updated


def _with_settings(
    target: Target,
    state: CollectionState,
    recorded: Provenance,
    overrides: SettingsOverrides,
    note: Callable[[str], None],
) -> Provenance:
    """Apply the requested settings to the collection; return the provenance to record for it."""
    settings = updated_settings(
        recorded.settings, overrides, recorded.dimensions, target.collection
    )
    reconcile(target, state, settings, recorded.dimensions, requested=overrides.names, note=note)
    created = target.create_indexes(settings)
    if created and state.points:
        note(f"created the payload indexes of {', '.join(created)}, which were missing")
    return replace(recorded, settings=settings)


def _described_state(target: Target) -> CollectionState:
    """Return the collection's state, once a cluster shows the metadata that it has accepted."""
    deadline = time.monotonic() + METADATA_PATIENCE
    while True:
        state = target.state()
        if Provenance.read(state) is not None or time.monotonic() >= deadline:
            return state
        time.sleep(METADATA_PATIENCE / 100)

"""Which model made a collection: written when it is created, compared whenever it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Protocol
from uuid import UUID

from quernstone.types import EngineInfo, Float32Array
from quernstone_qdrant.documents.bm25 import has_encoder
from quernstone_qdrant.documents.points import collection_namespace
from quernstone_qdrant.errors import CollectionError, ProvenanceError
from quernstone_qdrant.settings import ANY_SETTINGS, CollectionSettings, SettingsWish
from quernstone_qdrant.targets import CollectionState, Target

METADATA_KEY = "quernstone"
"""Where the collection's metadata holds ours."""


class TextEmbedder(Protocol):
    """What the loader and the searcher need of an embedder; `quernstone.Embedder` has it."""

    @property
    def model(self) -> str:
        """The model as it was named."""
        ...

    @property
    def dimensions(self) -> int:
        """Numbers per vector."""
        ...

    @property
    def revision(self) -> str:
        """Commit of the model, or a digest of its files."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What runs the model."""
        ...

    def format_query(self, text: str, /) -> str:
        """What the model reads for a query."""
        ...

    def embed_documents(self, texts: list[str], /) -> Float32Array:
        """Embed texts. Shape of the result: (len(texts), dimensions)."""
        ...

    def embed_query(self, text: str, /, instruction: str | None = None) -> Float32Array:
        """Embed one query. Shape of the result: (dimensions,)."""
        ...


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a collection's document vectors depend on.

    The model, its revision and the size of the vectors are compared whenever the collection is
    used. The rest is recorded for people: a collection loaded in bfloat16 on a GPU is searched in
    float32 on a laptop, and the prompt of queries may change with every query.
    """

    model: str
    revision: str
    """The digest of the model's files, where the embedder knows it; else its `revision`."""
    dimensions: int
    dtype: str
    namespace: UUID
    """All point ids of the collection are made in it, also after it was renamed by an alias."""
    settings: CollectionSettings = field(default_factory=CollectionSettings)
    """How the collection stores its points. Each `auto` is resolved."""
    engine: str = ""
    """What ran the model."""
    query_prompt: str = ""
    """What a query becomes, with `{query}` in its place. Documents are embedded as they are."""
    loader: str = field(default_factory=lambda: version("quernstone-qdrant"))
    """Version of this package that created the collection."""
    mixed: tuple[Mapping[str, str], ...] = ()
    """Other models whose vectors were let in by `allow_mismatch`, each with `model`, `revision`,
    `dtype` and `loader`."""

    @classmethod
    def of(cls, embedder: TextEmbedder, collection: str) -> Provenance:
        """What a collection that is made now with `embedder` will have, in the default settings."""
        return cls(
            model=embedder.model,
            # a commit of the hub and a copy of its files are one model; only ours has a digest
            revision=getattr(embedder, "digest", "") or embedder.revision,
            dimensions=embedder.dimensions,
            dtype=embedder.info.dtype,
            namespace=collection_namespace(collection),
            engine=embedder.info.engine,
            query_prompt=embedder.format_query("{query}"),
        )

    @classmethod
    def read(cls, state: CollectionState) -> Provenance | None:
        """Read a collection's; None when it was not made by us."""
        stored = state.metadata.get(METADATA_KEY)
        if not isinstance(stored, dict):
            return None
        return cls(
            model=str(stored.get("model")),
            revision=str(stored.get("revision")),
            dimensions=int(stored.get("dimensions", 0)),
            dtype=str(stored.get("dtype")),
            namespace=UUID(str(stored.get("namespace"))),
            settings=CollectionSettings.from_json(stored.get("settings") or {}),
            engine=str(stored.get("engine", "")),
            query_prompt=str((stored.get("prompts") or {}).get("query", "")),
            loader=str(stored.get("loader", "")),
            mixed=tuple(stored.get("mixed") or ()),
        )

    @property
    def fingerprint(self) -> str:
        """What goes into the content hash of every point."""
        return f"{self._identity};{self.dimensions}"

    @property
    def _identity(self) -> str:
        """Revisions are hashes: a local folder may have another path on another machine."""
        return self.revision or self.model

    def is_model_of(self, wanted: Provenance) -> bool:
        """Whether both are the same model in the same revision."""
        return self._identity == wanted._identity

    def check(self, wanted: Provenance, collection: str, *, allow_mismatch: bool = False) -> None:
        """Refuse to mix this collection's vectors with those of another embedder.

        Args:
            wanted: Of the embedder.
            collection: For the message.
            allow_mismatch: Take another model or revision. The size must fit in any case.

        Raises:
            ProvenanceError: The model, its revision or the size of the vectors differs.
        """
        for name in () if allow_mismatch or self.is_model_of(wanted) else ("model", "revision"):
            there, here = getattr(self, name), getattr(wanted, name)
            if there != here:
                raise ProvenanceError(collection, name, there, here)
        if self.dimensions != wanted.dimensions:
            raise ProvenanceError(collection, "dimensions", self.dimensions, wanted.dimensions)

    def metadata(self) -> dict[str, Any]:
        """Build what is stored with the collection."""
        return {
            METADATA_KEY: {
                "model": self.model,
                "revision": self.revision,
                "dimensions": self.dimensions,
                "dtype": self.dtype,
                "engine": self.engine,
                "prompts": {"document": "{text}", "query": self.query_prompt},
                "namespace": str(self.namespace),
                "settings": self.settings.to_json(),
                "loader": self.loader,
                "mixed": [dict(other) for other in self.mixed],
            }
        }

    def mixed_with(self, other: Provenance) -> Provenance:
        """The same, with another model recorded beside the first."""
        entry = {
            "model": other.model,
            "revision": other.revision,
            "dtype": other.dtype,
            "loader": other.loader,
        }
        return self if entry in self.mixed else replace(self, mixed=(*self.mixed, entry))


def check_provenance(
    state: CollectionState, collection: str, wanted: Provenance, *, allow_mismatch: bool = False
) -> Provenance:
    """Return what the collection records, when it fits the embedder.

    Raises:
        CollectionError: The collection holds points of unknown origin.
        ProvenanceError: It was made with another model, revision or size of vectors.
    """
    recorded = Provenance.read(state)
    if recorded is None:
        raise CollectionError(
            collection,
            "nothing is recorded about the model that made it, so its vectors may be of another; "
            "load into a new collection",
        )
    recorded.check(wanted, collection, allow_mismatch=allow_mismatch)
    return recorded


def prepare_collection(
    target: Target,
    embedder: TextEmbedder,
    wish: SettingsWish = ANY_SETTINGS,
    *,
    allow_mismatch: bool = False,
) -> Provenance:
    """Make sure that there is a collection for the vectors of `embedder`.

    It is created when missing. An empty one that somebody prepared is adopted when its vectors fit.

    Args:
        target: Where the collection is, or will be.
        embedder: What makes the vectors.
        wish: What is wanted of a new collection, or expected of one that is there.
        allow_mismatch: Take a collection of another model, and record that it was done.

    Raises:
        CollectionError: It cannot take these vectors, holds points of unknown origin, or was made
            with other settings.
        ProvenanceError: It was made with another model, revision or size of vectors.
    """
    wanted = Provenance.of(embedder, target.collection)
    can_encode = target.kind != "embedded" or has_encoder()
    settings = wish.of(CollectionSettings()).resolved(wanted.dimensions, can_encode=can_encode)
    wanted = replace(wanted, settings=settings)
    if not target.exists():
        target.create(settings, wanted.dimensions, wanted.metadata())
    state = target.state()
    if Provenance.read(state) is None and not state.points:
        _check_vectors(state, target.collection, wanted)
        target.describe(wanted.metadata())
        state = target.state()
        if Provenance.read(state) is None:
            raise CollectionError(
                target.collection,
                "the server does not keep collection metadata; Qdrant 1.16 or newer is needed",
            )
    recorded = check_provenance(state, target.collection, wanted, allow_mismatch=allow_mismatch)
    _check_settings(recorded.settings, wish.of(recorded.settings), target.collection)
    _check_vectors(state, target.collection, recorded)
    if not state.points:  # also after a crash between the two
        target.create_indexes(recorded.settings)
    if not recorded.is_model_of(wanted):
        recorded = recorded.mixed_with(wanted)
        target.describe(recorded.metadata())
    return recorded


def _check_settings(made: CollectionSettings, wanted: CollectionSettings, collection: str) -> None:
    differences = wanted.differences(made)
    if differences:
        there = ", ".join(f"{name}={value!r}" for name, value, _ in differences)
        here = ", ".join(f"{name}={value!r}" for name, _, value in differences)
        raise CollectionError(
            collection,
            f"it was made with {there}, but {here} is wanted; leave that out, or use another "
            "collection",
        )


def _check_vectors(state: CollectionState, collection: str, wanted: Provenance) -> None:
    needed = wanted.settings.vectors(wanted.dimensions)
    if set(state.vectors) != set(needed):
        raise CollectionError(
            collection, f"it has {_named(state.vectors)}; {_named(needed)} is needed"
        )
    for name, vector in state.vectors.items():
        if vector.size != needed[name].size:
            raise ProvenanceError(collection, "dimensions", vector.size, needed[name].size)
        distances = {"Cosine", "Dot"} if needed[name].distance == "Cosine" else {"Euclid"}
        if vector.distance not in distances:
            raise CollectionError(
                collection,
                f"its distance is {vector.distance}; it must be {' or '.join(sorted(distances))}",
            )


def _named(vectors: Iterable[str]) -> str:
    names = [f"`{name}`" for name in vectors if name]
    return f"named vectors ({', '.join(names)})" if names else "one unnamed vector"

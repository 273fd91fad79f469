"""Choose the embedder of queries by the model that a collection records."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from quernstone_qdrant.embedders import AnyEmbedder, QueryEmbedder, as_embedder
from quernstone_qdrant.provenance import Provenance, check_provenance
from quernstone_qdrant.targets import CollectionState

EmbedderFor: TypeAlias = "Callable[[Provenance], AnyEmbedder]"
"""A function that returns the embedder of the model that a collection records."""


class EmbedderChoice:
    """The embedders of a searcher: those in use so far, and a function that opens others.

    Args:
        embedder: The first embedder.
        embedder_for: Opens the embedder of a collection's model, if no known embedder has it. It is
            called once per model, on the thread that searches first. None: never open another.
    """

    def __init__(self, embedder: AnyEmbedder, embedder_for: EmbedderFor | None) -> None:
        self._known: list[QueryEmbedder] = [as_embedder(embedder)]
        self._embedder_for, self._loading = embedder_for, threading.Lock()

    def of(
        self, state: CollectionState, collection: str, *, allow_mismatch: bool
    ) -> tuple[Provenance, QueryEmbedder]:
        """Return the provenance of a collection, and its embedder.

        Args:
            state: State of the collection.
            collection: Its name, for messages.
            allow_mismatch: Accept an embedder of another model with the same vector size.

        Raises:
            CollectionError: The collection does not record its model.
            ProvenanceError: The embedder is of another model, revision or vector size.
        """
        recorded = Provenance.read(state)
        with self._loading:  # other threads wait instead of loading the model again
            embedder = self._known[0] if recorded is None else self._chosen(recorded, collection)
            wanted = Provenance.of(embedder, collection)
            checked = check_provenance(state, collection, wanted, allow_mismatch=allow_mismatch)
            if embedder not in self._known:
                self._known.append(embedder)
            return checked, embedder

    def _chosen(self, recorded: Provenance, collection: str) -> QueryEmbedder:
        for known in self._known:
            if recorded.has_vectors_of(Provenance.of(known, collection)):
                return known
        if self._embedder_for is None:
            return self._known[0]
        chosen: QueryEmbedder = as_embedder(self._embedder_for(recorded))
        return chosen

"""Embed texts of stored points, leaving out those that cannot be embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from quernstone.errors import EngineMemoryError, InputError, NonFiniteError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.embedders import TextEmbedder, is_normalized
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.loading.steps import validated
from quernstone_qdrant.migration.counts import PassCounts


class HasText(Protocol):
    """A point with the text to embed."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def text(self) -> str:
        """Its text."""
        ...


AnyText = TypeVar("AnyText", bound=HasText)


def embed_all(
    points: Sequence[AnyText], embedder: TextEmbedder | None, counts: PassCounts, collection: str
) -> tuple[list[AnyText], list[Float32Array], list[str]]:
    """Embed the texts of points.

    Args:
        points: The points.
        embedder: The embedder; None: there must be no point.
        counts: Counts the texts, and the points that are left out.
        collection: Name of the collection, for the error.

    Returns:
        The points that were embedded, their unit vectors of shape (dimensions,), and the ids of
        those that cannot be embedded.

    Raises:
        CollectionError: There are points, and no embedder.
    """
    kept, failed = list(points), []
    while kept:
        try:
            rows = _embed([one.text for one in kept], embedder, collection)
        except (InputError, EngineMemoryError, NonFiniteError) as error:  # noqa: PERF203
            if error.index is None:
                raise
            one = kept.pop(error.index)
            counts.problem(one.id, f"it cannot be embedded: {error}")
            failed.append(one.id)
        else:
            counts.embedded += len(kept)
            return kept, list(rows), failed
    return [], [], failed


def _embed(texts: list[str], embedder: TextEmbedder | None, collection: str) -> Float32Array:
    if embedder is None:
        raise CollectionError(
            collection,
            f"{len(texts)} points are outstanding: run the migration again with its model",
        )
    vectors = validated(embedder.embed_documents(texts), len(texts), embedder.dimensions)
    return vectors if is_normalized(embedder) else unit_prefix(vectors, embedder.dimensions)

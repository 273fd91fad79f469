"""What a collection is made of: the vectors of a point, and how each comes of its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from quernstone.types import Float32Array

Rows: TypeAlias = Float32Array
"""One vector of each point of a batch. Shape: (points, numbers)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """One dense vector of every point."""

    size: int
    distance: Literal["Cosine"] = "Cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """One unnamed cosine vector: what LangChain and LlamaIndex expect of a collection."""

    def vectors(self, dimensions: int) -> Mapping[str, VectorSettings]:
        """The vectors of a point by name, for embeddings of `dimensions` numbers."""
        return {"": VectorSettings(size=dimensions)}

    def rows(self, embeddings: Float32Array, texts: Sequence[str]) -> Mapping[str, Rows]:
        """What is written for a batch.

        Args:
            embeddings: Unit vectors. Shape: (len(texts), dimensions)
            texts: What was embedded.

        Returns:
            The rows of each vector by name, in the order of the texts.
        """
        if len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        return {"": embeddings}

"""The vectors of questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice

import numpy as np

from quernstone.errors import ConfigError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.embedders import QueryEmbedder
from quernstone_qdrant.searching.options import Question


def embed(embedder: QueryEmbedder, questions: Sequence[Question]) -> list[Float32Array]:
    """Return the vectors of questions; an embedder that takes several texts shares batches.

    Args:
        embedder: Embedder of the collection.
        questions: Questions with the same instruction.
    """
    texts, task = _texts(questions), questions[0].instruction
    embed_queries = getattr(embedder, "embed_queries", None)
    if len(texts) > 1 and embed_queries is not None:
        return _means(questions, embed_queries(texts, task), embedder)
    return _means(questions, [embedder.embed_query(text, task) for text in texts], embedder)


async def aembed(embedder: QueryEmbedder, questions: Sequence[Question]) -> list[Float32Array]:
    """Like `embed`, without blocking the event loop."""
    task, aembed_query = questions[0].instruction, embedder.aembed_query
    rows = await asyncio.gather(*(aembed_query(text, task) for text in _texts(questions)))
    return _means(questions, rows, embedder)


def unit_vector(given: Sequence[float] | Float32Array, size: int) -> Float32Array:
    """Return a query's vector with unit length.

    Raises:
        ConfigError: It has another size, or a value that is not finite.
    """
    vector = np.asarray(given, dtype=np.float32)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise ConfigError(
            f"`vector` has shape {vector.shape}; it must be ({size},), all of it finite"
        )
    return unit_prefix(vector, size)


def _texts(questions: Sequence[Question]) -> list[str]:
    return [text for question in questions for text in question.embedded]


def _means(
    questions: Sequence[Question], rows: Sequence[Float32Array], embedder: QueryEmbedder
) -> list[Float32Array]:
    """Return the mean of the vectors of each question."""
    left = iter(rows)
    means = [np.mean([*islice(left, len(each.embedded))], axis=0) for each in questions]
    return [unit_vector(mean, embedder.dimensions) for mean in means]

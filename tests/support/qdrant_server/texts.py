"""BM25 vectors of the texts in a request, computed on the server."""

import functools
import json
from typing import Any

from pydantic import BaseModel
from qdrant_client import models
from qdrant_edge import Bm25, Bm25Config
from tests.support.qdrant_server.calls import Refusal


def encoded(value: Any, *, query: bool) -> Any:
    """Return a part of a request with a vector in place of each `Document`."""
    if isinstance(value, models.Document):
        return _encode(value, query=query)
    if isinstance(value, models.Image | models.InferenceObject):
        raise _no_inference()
    if isinstance(value, BaseModel):
        changed = {}
        for name in value.model_fields_set:
            old = getattr(value, name)
            new = encoded(old, query=query)
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, list) and value and not isinstance(value[0], int | float | str):
        parts = [encoded(part, query=query) for part in value]
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    return value


def encoded_vectors(vectors: Any) -> Any:
    """Return the vectors of one point with a vector in place of each `Document`."""
    if isinstance(vectors, dict):
        return {name: encoded(vector, query=False) for name, vector in vectors.items()}
    return encoded(vectors, query=False)


def _encode(document: models.Document, *, query: bool) -> models.SparseVector:
    if document.model.lower() != "qdrant/bm25":
        raise _no_inference()
    options = document.options or {}
    if isinstance(options, BaseModel):
        options = options.model_dump(exclude_none=True, mode="json")
    encoder = _encoder(json.dumps(options, sort_keys=True))
    vector = (encoder.embed_query if query else encoder.embed_document)(document.text)
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


@functools.cache
def _encoder(options: str) -> Bm25:
    return Bm25(Bm25Config(**json.loads(options)))


def _no_inference() -> Refusal:
    return Refusal(
        500,
        "Service internal error: InferenceService is not initialized. Please check if it was "
        "properly configured.",
    )

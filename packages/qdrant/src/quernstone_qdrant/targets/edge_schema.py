"""Translate the configuration of any collection to Qdrant Edge.

Edge's classes have the fields of those of `qdrant_client`, so they are translated by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, get_args

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models

from quernstone_qdrant.targets.edge_translate import DEFAULT_GRAPH
from quernstone_qdrant.targets.schema import CollectionSchema

_NAMES = {
    "VectorParams": "EdgeVectorParams",
    "SparseVectorParams": "EdgeSparseVectorParams",
    "HnswConfigDiff": "HnswIndexConfig",
    "Datatype": "VectorStorageDatatype",
    "DisabledStemmerParams": "DisabledStemmer",
}
"""Classes that have another name in Edge."""
_TAGGED = {
    one.__name__
    for one in (*get_args(models.PayloadSchemaParams), *get_args(models.StemmingAlgorithm))
}
"""Classes whose field `type` only distinguishes them in JSON."""


class UnknownToEdgeError(Exception):
    """Edge has no such value; the message names it."""


def schema_config(schema: CollectionSchema) -> edge.EdgeConfig:
    """Return the configuration of a new shard.

    Raises:
        UnknownToEdgeError: Edge does not have a value.
    """
    whole = schema.with_own_settings()
    return edge.EdgeConfig(
        vectors={name: _edge_value(vector) for name, vector in whole.vectors.items()},
        sparse_vectors={name: _edge_value(one) for name, one in whole.sparse.items()} or None,
        on_disk_payload=schema.payload_on_disk,
    )


def edge_indexes(schema: CollectionSchema) -> dict[str, Any]:
    """Return the payload indexes by path.

    Raises:
        UnknownToEdgeError: Edge does not have a value.
    """
    return {path: _edge_value(index) for path, index in schema.indexes.items()}


def unknown_to_edge(schema: CollectionSchema) -> Iterator[str]:
    """Describe the vectors and payload indexes that Edge cannot have."""
    whole = schema.with_own_settings()
    parts: list[tuple[str, Mapping[str, Any]]] = [
        ("the vector", whole.vectors),
        ("the sparse vector", whole.sparse),
        ("the payload index of", whole.indexes),
    ]
    for kind, named in parts:
        for name, value in named.items():
            reason = _unknown(value)
            if reason is not None:
                yield f"{kind} {name!r} ({reason})"


def _unknown(value: Any) -> str | None:
    """Return the part of a value that Edge does not support, or None."""
    try:
        _edge_value(value)
    except UnknownToEdgeError as error:
        return str(error)
    return None


def _edge_value(value: Any) -> Any:
    """Return Edge's object for one of `qdrant_client`, which may be a number or a text."""
    if isinstance(value, Enum):
        return _edge_member(value)
    if isinstance(value, list):  # of stop words
        return {_edge_value(part) for part in value}
    if not isinstance(value, BaseModel):
        return value
    name = type(value).__name__
    if name.endswith("Quantization"):  # an object around the parameters of its kind
        (parameters,) = _fields(value).values()
        return parameters
    if isinstance(value, models.SparseVectorParams):
        index = {} if value.index is None else _fields(value.index)
        return _built(name, index | _fields(value, "index"))
    if isinstance(value, models.HnswConfigDiff):
        return _built(name, DEFAULT_GRAPH | _fields(value))
    return _built(name, _fields(value, *(["type"] if name in _TAGGED else [])))


def _fields(value: BaseModel, *without: str) -> dict[str, Any]:
    given = {name: getattr(value, name) for name in type(value).model_fields if name not in without}
    return {name: _edge_value(part) for name, part in given.items() if part is not None}


def _built(name: str, given: Mapping[str, Any]) -> Any:
    made = getattr(edge, _NAMES.get(name, name), None)
    if made is None:
        raise UnknownToEdgeError(f"Edge has no {name}")
    try:
        return made(**given)
    except (TypeError, ValueError) as error:
        raise UnknownToEdgeError(str(error)) from error


def _edge_member(value: Enum) -> Any:
    """Return the member of Edge's enum with this value, such as `Float16` for `float16`."""
    name = type(value).__name__
    members = getattr(edge, _NAMES.get(name, name), None)
    wanted = _letters(str(value.value))
    for member in dir(members):
        if not member.startswith("_") and _letters(member) == wanted:
            return getattr(members, member)
    raise UnknownToEdgeError(f"{name} {value.value}")


def _letters(name: str) -> str:
    return name.replace("_", "").lower()

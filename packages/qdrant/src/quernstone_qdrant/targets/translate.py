"""Translate settings, points and searches to the types of `qdrant_client`.

Servers from 1.19 on take the option `memory`; older ones know only `on_disk` and `always_ram`,
which newer ones deprecate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from qdrant_client import models

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import Bm25Text, SparseVector, encode_document
from quernstone_qdrant.documents.layouts import HASH_FIELD
from quernstone_qdrant.settings import (
    BM25,
    GRAPH,
    STORAGE,
    AnyVectorBatch,
    CollectionSettings,
    FieldType,
    Quantization,
    VectorSettings,
)
from quernstone_qdrant.targets.base import Payload

MEMORY_SINCE = (1, 19)
_TURBO_BITS = {
    "turbo1": models.TurboQuantBitSize.BITS1,
    "turbo2": models.TurboQuantBitSize.BITS2,
    "turbo4": models.TurboQuantBitSize.BITS4,
    "turbo8": models.TurboQuantBitSize.BITS8,
}


def vectors_config(
    settings: CollectionSettings, dimensions: int, *, memory: bool
) -> models.VectorParams | dict[str, models.VectorParams]:
    """Return the dense vectors of a new collection.

    Args:
        settings: Settings of the collection.
        dimensions: Size of the embeddings.
        memory: True if the server takes `memory`.
    """
    named = {
        name: _vector_params(vector, memory=memory)
        for name, vector in settings.vectors(dimensions).items()
    }
    return named[""] if list(named) == [""] else named


def sparse_config(settings: CollectionSettings) -> dict[str, models.SparseVectorParams]:
    """Return the sparse vector of a new collection by name, if it has one."""
    if settings.bm25 != "sparse":
        return {}
    return {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)}


def graph_config(settings: CollectionSettings) -> models.HnswConfigDiff | None:
    """Return the HNSW settings that differ from the server's defaults."""
    given = _given(settings, GRAPH)
    return models.HnswConfigDiff(**given) if given else None


def storage_config(settings: CollectionSettings) -> dict[str, Any]:
    """Return the settings of shards, replicas and payloads that differ from the defaults."""
    return _given(settings, STORAGE)


def field_index(kind: FieldType) -> Any:
    """Return the payload index of a metadata field."""
    if kind == "tenant":
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    return kind


def key_index(*, memory: bool) -> models.KeywordIndexParams:
    """Return the index of a key field. It stays on disk: only deleting a document reads it."""
    where: dict[str, Any] = {"memory": models.Memory.COLD} if memory else {"on_disk": True}
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, **where)


def text_index(settings: CollectionSettings, *, embedded: bool) -> models.TextIndexParams:
    """Return a text index with scores. The embedded client has neither stemmer nor stop words."""
    if embedded:
        return models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=True)
    stemmer = None
    if settings.language in set(models.SnowballLanguage):
        stemmer = models.SnowballParams(
            type=models.Snowball.SNOWBALL, language=models.SnowballLanguage(settings.language)
        )
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        scoring=True,
        stopwords=models.Language(settings.language),
        stemmer=stemmer,
    )


def batch_rows(rows: AnyVectorBatch) -> list[Any]:
    """Convert one vector per point to the form sent to a server."""
    if isinstance(rows, np.ndarray):
        # orjson writes the shortest digits of each float32; `tolist()` would send the 17 digits of
        # a double, nearly twice the bytes.
        packed = orjson.dumps(np.ascontiguousarray(rows), option=orjson.OPT_SERIALIZE_NUMPY)
        numbers: list[Any] = orjson.loads(packed)
        return numbers
    return [_single(row) for row in rows]


def embedded_points(
    ids: Sequence[Any], payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]
) -> list[models.PointStruct]:
    """Convert a batch to the form that the embedded client stores fastest.

    The points skip pydantic's validation of every number: the client itself rejects invalid ids,
    vectors and payloads before it stores the first point.
    """
    columns: dict[str, list[Any]] = {
        name: rows.tolist() if isinstance(rows, np.ndarray) else [_single(row) for row in rows]
        for name, rows in vectors.items()
    }
    return [
        models.PointStruct.model_construct(
            id=point,
            payload=payload,
            vector={name: column[place] for name, column in columns.items()},
        )
        for place, (point, payload) in enumerate(zip(ids, payloads, strict=True))
    ]


def unchanged(hashes: Sequence[str]) -> models.Filter | None:
    """Return a filter for points that still have one of these content hashes; None without any.

    A content hash covers the key of the document and the number of the chunk, so no other point of
    a request can have it.
    """
    if not hashes:
        return None
    match = models.MatchAny(any=list(hashes))
    return models.Filter(must=[models.FieldCondition(key=HASH_FIELD, match=match)])


def update_operations(
    ids: Sequence[Any],
    payloads: Sequence[Payload],
    vectors: Mapping[str, AnyVectorBatch],
    where: models.Filter | None,
) -> list[Any]:
    """Return the operations that replace payload fields and named vectors of points.

    Args:
        ids: Ids of the points.
        payloads: Fields to replace, one mapping per point.
        vectors: Named vectors, one row per point.
        where: Condition for the change of a point's vectors.
    """
    operations: list[Any] = [
        models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, points=[point]))
        for point, payload in zip(ids, payloads, strict=True)
        if payload
    ]
    if vectors:
        columns = {name: batch_rows(rows) for name, rows in vectors.items()}
        points = [
            models.PointVectors(
                id=point, vector={name: column[place] for name, column in columns.items()}
            )
            for place, point in enumerate(ids)
        ]
        changed = models.UpdateVectors(points=points, update_filter=where)
        operations.append(models.UpdateVectorsOperation(update_vectors=changed))
    return operations


def _single(row: Bm25Text | SparseVector | Float32Array) -> Any:
    """Convert a multivector, a sparse vector or the text of one."""
    return row.tolist() if isinstance(row, np.ndarray) else sparse_vector(encode_document(row))


def _given(settings: CollectionSettings, names: Mapping[str, str]) -> dict[str, Any]:
    given = {theirs: getattr(settings, name) for name, theirs in names.items()}
    return {name: value for name, value in given.items() if value is not None}


def _vector_params(vector: VectorSettings, *, memory: bool) -> models.VectorParams:
    where: dict[str, Any] = {}
    if vector.on_disk:
        where = {"memory": models.Memory.COLD} if memory else {"on_disk": True}
    return models.VectorParams(
        size=vector.size,
        distance=models.Distance(vector.distance),
        datatype=None if vector.datatype == "float32" else models.Datatype(vector.datatype),
        quantization_config=quantization_config(vector.quantization, memory=memory),
        hnsw_config=None if vector.graph else models.HnswConfigDiff(m=0),
        **where,
    )


def quantization_config(
    kind: Quantization | None, *, memory: bool
) -> models.QuantizationConfig | None:
    """Return the quantization. Quantized vectors stay in RAM, because every search reads them."""
    where: dict[str, Any] = {"memory": models.Memory.PINNED} if memory else {"always_ram": True}
    if kind is None:
        return None
    if kind == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, **where)
        )
    if kind == "binary":
        # 8-bit queries improve recall a lot and cost no memory (docs/scaling.md).
        query = models.BinaryQuantizationQueryEncoding.SCALAR8BITS
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(query_encoding=query, **where)
        )
    return models.TurboQuantization(
        turbo=models.TurboQuantQuantizationConfig(bits=_TURBO_BITS[kind], **where)
    )


def sparse_vector(vector: SparseVector) -> models.SparseVector:
    """Return a sparse vector as the client takes it."""
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))

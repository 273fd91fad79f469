"""Translate settings, points and searches to the types of Qdrant Edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import Bm25Text, SparseVector, encode_document
from quernstone_qdrant.settings import (
    BM25,
    CONFIGURED,
    AnyVectorBatch,
    CollectionSettings,
    FieldType,
    Quantization,
    VectorSettings,
)
from quernstone_qdrant.targets.base import Payload, VectorState

DEFAULT_GRAPH = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
"""Qdrant's defaults for the HNSW graph, the size in KB. Edge requires every value."""
_DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_DISTANCES = {"Cosine": edge.Distance.Cosine, "Euclid": edge.Distance.Euclid}
_TURBO_BITS = {
    "turbo1": edge.TurboQuantBitSize.Bits1,
    "turbo2": edge.TurboQuantBitSize.Bits2,
    "turbo4": edge.TurboQuantBitSize.Bits4,
    "turbo8": edge.TurboQuantBitSize.Bits8,
}
_SCHEMAS: dict[FieldType, Any] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "tenant": edge.KeywordIndexParams(is_tenant=True),
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "uuid": edge.PayloadSchemaType.Uuid,
    "text": edge.PayloadSchemaType.Text,
}


def shard_config(
    settings: CollectionSettings, dimensions: int, others: Mapping[str, VectorSettings]
) -> edge.EdgeConfig:
    """Return the configuration of a shard.

    Args:
        settings: Settings of the collection.
        dimensions: Size of the embeddings.
        others: Dense vectors besides those of the settings.
    """
    needed = {**others, **settings.vectors(dimensions)}
    vectors = {name: _vector_params(vector, settings) for name, vector in needed.items()}
    sparse = {BM25: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors=sparse if settings.bm25 == "sparse" else None,
        on_disk_payload=settings.payload_on_disk,
    )


def settings_state(
    settings: CollectionSettings,
    dimensions: int,
    others: Mapping[str, VectorSettings],
    indexed: Iterable[str],
) -> dict[str, Any]:
    """Return the fields of a `CollectionState` that follow from the settings of a shard.

    Args:
        settings: Settings that the shard was created with, or changed to.
        dimensions: Size of the embeddings.
        others: Dense vectors besides those of the settings.
        indexed: Payload paths that have an index.
    """
    kinds = settings.fields()
    return {
        "vectors": {
            name: VectorState(
                size=vector.size,
                distance=vector.distance,
                datatype=vector.datatype,
                quantization=vector.quantization,
                on_disk=vector.on_disk,
            )
            for name, vector in {**others, **settings.vectors(dimensions)}.items()
        },
        "sparse": {BM25: True} if settings.bm25 == "sparse" else {},
        "payload_indexes": {path: kinds.get(path, "keyword") for path in indexed},
        "config": {name: getattr(settings, name) for name in CONFIGURED},
    }


def field_schemas(settings: CollectionSettings) -> dict[str, Any]:
    """Return the schemas of the payload indexes by field path."""
    schemas: dict[str, Any] = {name: _SCHEMAS[kind] for name, kind in settings.fields().items()}
    for name in settings.key_fields():
        schemas[name] = edge.KeywordIndexParams(memory=edge.Memory.Cold)
    if settings.bm25 == "text":
        schemas[settings.text_field] = _text_index(settings.language.capitalize())
    return schemas


def point_vectors(vectors: Mapping[str, AnyVectorBatch], place: int) -> dict[str, Any]:
    """Return the vectors of the point at index `place` of a batch."""
    return {name: _row(rows[place]) for name, rows in vectors.items()}


def _row(row: Bm25Text | SparseVector | Float32Array) -> Any:
    return row if isinstance(row, np.ndarray) else sparse_vector(encode_document(row))


def new_vector(name: str, vector: VectorSettings) -> edge.UpdateOperation:
    """Return the operation that adds a dense vector. Its storage is configured afterwards."""
    return edge.UpdateOperation.create_dense_vector(
        name, vector.size, _DISTANCES[vector.distance], datatype=_DATATYPES[vector.datatype]
    )


def update_operations(
    ids: Sequence[Any],
    payloads: Sequence[Payload],
    vectors: Mapping[str, AnyVectorBatch],
    where: edge.Filter | None,
) -> list[edge.UpdateOperation]:
    """Return the operations that replace payload fields and named vectors of points.

    Args:
        ids: Ids of the points.
        payloads: Fields to replace, one mapping per point.
        vectors: Named vectors, one row per point.
        where: Condition for the change of a point's vectors.
    """
    operations = [
        edge.UpdateOperation.set_payload([point], payload)
        for point, payload in zip(ids, payloads, strict=True)
        if payload
    ]
    if vectors:
        changed = [
            edge.PointVectors(point, point_vectors(vectors, place))
            for place, point in enumerate(ids)
        ]
        operations.append(edge.UpdateOperation.update_vectors(changed, where))
    return operations


def _vector_params(vector: VectorSettings, settings: CollectionSettings) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        vector.size,
        _DISTANCES[vector.distance],
        datatype=_DATATYPES[vector.datatype],
        quantization_config=_quantization(vector.quantization),
        hnsw_config=edge.HnswIndexConfig(
            _given(settings, "m") if vector.graph else 0,
            _given(settings, "ef_construct"),
            _given(settings, "full_scan_threshold"),
            max_indexing_threads=settings.max_indexing_threads or 0,
            on_disk=settings.graph_on_disk,
            payload_m=settings.payload_m,
        ),
        memory=edge.Memory.Cold if vector.on_disk else edge.Memory.Cached,
    )


def _given(settings: CollectionSettings, name: str) -> int:
    value: int | None = getattr(settings, name)
    return DEFAULT_GRAPH[name] if value is None else value


def _text_index(language: str) -> edge.TextIndexParams:
    """Return the parameters of a text index with scores."""
    stemmer = getattr(edge.SnowballLanguage, language, None)
    return edge.TextIndexParams(
        scoring=True,
        stopwords=getattr(edge.Language, language),
        stemmer=None if stemmer is None else edge.SnowballParams(stemmer),
    )


def _quantization(kind: Quantization | None) -> Any:
    """Return the quantization. Quantized vectors stay in RAM, because every search reads them."""
    if kind is None:
        return None
    if kind == "scalar":
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Pinned)
    if kind == "binary":
        return edge.BinaryQuantizationConfig(
            # 8-bit queries improve recall a lot and cost no memory (docs/scaling.md).
            query_encoding=edge.BinaryQuantizationQueryEncoding.Scalar8Bits,
            memory=edge.Memory.Pinned,
        )
    return edge.TurboQuantQuantizationConfig(bits=_TURBO_BITS[kind], memory=edge.Memory.Pinned)


def sparse_vector(vector: SparseVector) -> edge.SparseVector:
    """Return a sparse vector as Edge takes it."""
    return edge.SparseVector(list(vector.indices), list(vector.values))


def written_bytes(payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]) -> int:
    """Estimate the bytes that points take in the log and in the segments together."""
    numbers = 0
    for rows in vectors.values():
        parts = [rows] if isinstance(rows, np.ndarray) else rows
        numbers += sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
    return 2 * (numbers + sum(len(repr(payload)) for payload in payloads))

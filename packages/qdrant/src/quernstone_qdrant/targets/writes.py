"""Encode batches of points for a server, straight from rows of float32.

The client's own models take lists of Python floats, which costs several times as much as the rest
of a write (see `benchmarks/writing.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc
from qdrant_client.http.models import InlineResponse2008
from qdrant_client.qdrant_remote import QdrantRemote

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import Bm25Text, SparseVector, encode_document
from quernstone_qdrant.settings import AnyVectorBatch
from quernstone_qdrant.targets.base import Payload


def upsert_rest(
    remote: QdrantRemote,
    collection: str,
    ids: Sequence[int | str],
    payloads: Sequence[Payload],
    vectors: Mapping[str, AnyVectorBatch],
) -> models.UpdateResult:
    """Write a batch over REST, and wait until it is applied; see `Target.upsert`."""
    rows = {name: _json_rows(part) for name, part in vectors.items()}
    batch = {
        "ids": ids,
        "vectors": rows[""] if list(rows) == [""] else rows,
        "payloads": payloads,
    }
    answer = remote.http.client.request(
        type_=InlineResponse2008,
        method="PUT",
        url="/collections/{collection_name}/points",
        path_params={"collection_name": collection},
        params={"wait": "true"},
        headers={"Content-Type": "application/json"},
        # Writes the shortest digits of each float32.
        content=orjson.dumps({"batch": batch}, option=orjson.OPT_SERIALIZE_NUMPY),
    )
    if answer.result is None:
        raise RuntimeError("the server's answer has no result")
    return answer.result


def grpc_points(
    ids: Sequence[int | str], payloads: Sequence[Payload], vectors: Mapping[str, AnyVectorBatch]
) -> list[grpc.PointStruct]:
    """Convert a batch to gRPC's messages."""
    columns = {name: _grpc_rows(part) for name, part in vectors.items()}
    return [
        grpc.PointStruct(
            id=RestToGrpc.convert_extended_point_id(point),
            vectors=_grpc_vectors({name: column[place] for name, column in columns.items()}),
            payload=RestToGrpc.convert_payload(payload),
        )
        for place, (point, payload) in enumerate(zip(ids, payloads, strict=True))
    ]


def _json_rows(rows: AnyVectorBatch) -> Any:
    if isinstance(rows, np.ndarray):
        return np.ascontiguousarray(rows, dtype=np.float32)
    return [_json_row(row) for row in rows]


def _json_row(row: Bm25Text | SparseVector | Float32Array) -> Any:
    if isinstance(row, np.ndarray):
        return np.ascontiguousarray(row, dtype=np.float32)
    encoded = encode_document(row)
    return {"indices": list(encoded.indices), "values": list(encoded.values)}


def _grpc_rows(rows: AnyVectorBatch) -> list[grpc.Vector]:
    if isinstance(rows, np.ndarray):
        return [_dense(row) for row in np.ascontiguousarray(rows, dtype="<f4")]
    return [_grpc_row(row) for row in rows]


def _grpc_row(row: Bm25Text | SparseVector | Float32Array) -> grpc.Vector:
    if isinstance(row, np.ndarray):
        vectors = [grpc.DenseVector(data=vector) for vector in row.tolist()]
        return grpc.Vector(multi_dense=grpc.MultiDenseVector(vectors=vectors))
    encoded = encode_document(row)
    sparse = grpc.SparseVector(indices=encoded.indices, values=encoded.values)
    return grpc.Vector(sparse=sparse)


def _dense(row: Float32Array) -> grpc.Vector:
    vector = grpc.Vector()
    vector.dense.MergeFromString(_prefix(row.size) + row.tobytes())
    return vector


@functools.cache
def _prefix(size: int) -> bytes:
    """Return the bytes before the numbers in a serialized `DenseVector` of this size."""
    message: bytes = grpc.DenseVector(data=[0.0] * size).SerializeToString()
    return message[: len(message) - 4 * size]


def _grpc_vectors(row: Mapping[str, grpc.Vector]) -> grpc.Vectors:
    if list(row) == [""]:
        return grpc.Vectors(vector=row[""])
    return grpc.Vectors(vectors=grpc.NamedVectors(vectors=row))

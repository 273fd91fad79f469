"""Batches encoded straight from float32 rows are those that the client itself would send."""

from contextlib import closing

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc
from tests.support.qdrant_server import running_server

from quernstone_qdrant.documents.bm25 import Bm25Text, SparseVector, encode_document
from quernstone_qdrant.targets.writes import grpc_points, upsert_rest

IDS = ["6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21", 7]
PAYLOADS = [{"text": "a mill", "n": 2**40, "deep": {"list": [1, 2.5, None, True]}}, {}]
ROWS = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)
TEXTS = [Bm25Text("a stone mill", "english", 2), SparseVector([3, 5], [0.5, 1.5])]
VECTORS = [{"": ROWS}, {"dense": ROWS, "prefix": ROWS[:, :20]}, {"": ROWS, "bm25": TEXTS}]


def expected(vectors):
    """Return the points as the client's own models."""
    points = []
    for place, point in enumerate(IDS):
        row = {
            name: rows[place].tolist() if isinstance(rows, np.ndarray) else _sparse(rows[place])
            for name, rows in vectors.items()
        }
        vector = row[""] if list(row) == [""] else row
        points.append(models.PointStruct(id=point, vector=vector, payload=PAYLOADS[place]))
    return points


def _sparse(row):
    vector = encode_document(row)
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


@pytest.mark.parametrize("vectors", VECTORS, ids=["unnamed", "named", "sparse"])
def test_grpc_messages_equal_the_clients(vectors):
    theirs = [RestToGrpc.convert_point_struct(point) for point in expected(vectors)]
    assert grpc_points(IDS, PAYLOADS, vectors) == theirs


@pytest.mark.parametrize("vectors", VECTORS, ids=["unnamed", "named", "sparse"])
def test_rest_requests_equal_the_clients(vectors):
    with running_server() as server, closing(server.client()) as client:
        client.create_collection(
            "docs",
            vectors_config={
                name: models.VectorParams(size=rows.shape[1], distance=models.Distance.DOT)
                for name, rows in vectors.items()
                if isinstance(rows, np.ndarray)
            },
            sparse_vectors_config={"bm25": models.SparseVectorParams()},
        )
        server.keep_bodies = True
        result = upsert_rest(client._client, "docs", IDS, PAYLOADS, vectors)
        assert result.status == models.UpdateStatus.COMPLETED
        (request,) = server.writes()
        batch = request.body["batch"]
        assert batch["ids"] == IDS
        assert batch["payloads"] == PAYLOADS
        for place, point in enumerate(expected(vectors)):
            named = point.vector if isinstance(point.vector, dict) else {"": point.vector}
            sent = (
                batch["vectors"] if isinstance(batch["vectors"], dict) else {"": batch["vectors"]}
            )
            assert sent.keys() == named.keys()
            for name, row in named.items():
                if isinstance(row, models.SparseVector):
                    assert sent[name][place] == row.model_dump()
                else:
                    assert np.float32(sent[name][place]).tolist() == row


@pytest.mark.parametrize("size", [1, 2, 31, 32, 1024, 4096])
def test_every_size_of_vector_keeps_every_bit(size):
    rows = np.random.default_rng(size).standard_normal((1, size)).astype(np.float32)
    (point,) = grpc_points(IDS[:1], [{}], {"": rows[:, ::-1]})
    assert np.float32(point.vectors.vector.dense.data).tolist() == rows[0, ::-1].tolist()

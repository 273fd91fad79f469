"""REST and gRPC of the model of a Qdrant server do and return the same."""

import json
import uuid

import grpc
import pytest
from pydantic import BaseModel
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse
from tests.support.qdrant_recordings import POINTS, World
from tests.support.qdrant_server import running_server

POINT = str(uuid.UUID(int=3))
YEARS = models.Filter(
    must=[models.FieldCondition(key="year", range=models.Range(gte=3, lt=30))],
    must_not=[models.HasIdCondition(has_id=[POINT])],
)
BM25 = models.Document(
    text="Grain and stone mills", model="Qdrant/bm25", options={"language": "english"}
)
BOTH = [
    models.Prefetch(query=[0.5] * 64, using="dense", limit=20, filter=YEARS),
    models.Prefetch(query=BM25, using="bm25", limit=20),
]
READS = {
    "info": lambda c: c.info(),
    "exists": lambda c: [c.collection_exists(name) for name in ("rec", "rec_alias", "nope")],
    "collections": lambda c: c.get_collections(),
    "aliases": lambda c: (c.get_aliases(), c.get_collection_aliases("rec")),
    "describe": lambda c: c.get_collection("rec_alias"),
    "missing": lambda c: c.get_collection("nope"),
    "retrieve": lambda c: c.retrieve("rec", [POINT, str(uuid.uuid4())], ["nested", "x"], True),
    "scroll": lambda c: c.scroll("rec", YEARS, limit=7, with_vectors=["prefix", "bm25"]),
    "page": lambda c: c.scroll("rec", limit=2, offset=POINT, with_payload=False),
    "ordered": lambda c: c.scroll("rec", limit=3, order_by="year"),
    "unordered": lambda c: c.scroll("rec", limit=3, order_by="x"),
    "count": lambda c: c.count("rec", YEARS),
    "facet": lambda c: c.facet("rec", "tag", YEARS, limit=3),
    "facet without an index": lambda c: c.facet("rec", "x"),
    "query": lambda c: c.query_points(
        "rec", [0.5] * 64, using="dense", query_filter=YEARS, limit=5, with_vectors=["prefix"]
    ).points,
    "hybrid": lambda c: c.query_points(
        "rec", prefetch=BOTH, query=models.RrfQuery(rrf=models.Rrf(k=60)), limit=9
    ).points,
    "two stages": lambda c: c.query_points(
        "rec",
        prefetch=models.Prefetch(query=[0.5] * 16, using="prefix", limit=20),
        query=[0.5] * 64,
        using="dense",
        limit=5,
    ).points,
    "wrong size": lambda c: c.query_points("rec", [0.5] * 3, using="dense"),
    "groups": lambda c: c.query_points_groups("rec", "tag", [0.5] * 64, using="dense").groups,
    "batch": lambda c: c.query_batch_points(
        "rec", [models.QueryRequest(query=[0.5] * 16, using="prefix", limit=2)] * 2
    ),
    "slices": lambda c: c.count("rec", models.Filter(
        must=[models.SliceCondition(slice=models.Slice(total=2, index=0))]
    )),
}  # fmt: skip
WRITES = {
    "upsert": lambda c: c.upsert("rec", models.Batch(
        ids=[7, POINT],
        vectors={"dense": [[0.1] * 64, [0.2] * 64], "bm25": [BM25, BM25]},
        payloads=[{"big": 2**53 + 1, "none": None, "deep": [{"a": [1, 2.5]}]}, {}],
    )),
    "upsert of a wrong size": lambda c: c.upsert("rec", models.Batch(
        ids=[7], vectors={"dense": [[0.1] * 3]}
    )),
    "only updates": lambda c: c.upsert(
        "rec",
        [models.PointStruct(id=i, vector={}, payload={"new": True}) for i in (POINT, 99)],
        update_mode=models.UpdateMode.UPDATE_ONLY,
    ),
    "delete": lambda c: c.delete("rec", [POINT, 99]),
    "delete by filter": lambda c: c.delete("rec", models.FilterSelector(filter=YEARS)),
    "set payload": lambda c: c.set_payload("rec", {"y": {"z": 1}}, [POINT], key="nested"),
    "overwrite payload": lambda c: c.overwrite_payload("rec", {"y": 1}, YEARS),
    "delete payload": lambda c: c.delete_payload("rec", ["tag"], YEARS),
    "clear payload": lambda c: c.clear_payload("rec", [POINT]),
    "update vectors": lambda c: c.update_vectors(
        "rec", [models.PointVectors(id=POINT, vector={"new": [1.0] * 8, "bm25": BM25})]
    ),
    "update vectors of a missing point": lambda c: c.update_vectors(
        "rec", [models.PointVectors(id=99, vector={"new": [1.0] * 8})]
    ),
    "delete vectors": lambda c: c.delete_vectors("rec", ["dense"], [POINT]),
    "batch": lambda c: c.batch_update_points("rec", [
        models.DeleteOperation(delete=models.PointIdsList(points=[POINT])),
        models.UpsertOperation(upsert=models.PointsList(
            points=[models.PointStruct(id=POINT, vector={"new": [1.0] * 8})]
        )),
    ]),
    "create": lambda c: c.create_collection(
        "made",
        vectors_config={"a": models.VectorParams(
            size=8,
            distance=models.Distance.DOT,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=0),
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
            ),
        )},
        sparse_vectors_config={"s": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"a": {"b": [1, 2.5, None]}},
    ),
    "create twice": lambda c: c.create_collection("rec", vectors_config={}),
    "update": lambda c: c.update_collection(
        "rec",
        vectors_config={"dense": models.VectorParamsDiff(
            hnsw_config=models.HnswConfigDiff(m=4), on_disk=False
        )},
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=5),
        hnsw_config=models.HnswConfigDiff(m=8, ef_construct=50),
        metadata={"a": None, "b": {"c": [None, 2]}},
    ),
    "index": lambda c: c.create_payload_index("rec", "x", models.FloatIndexParams(
        type=models.FloatIndexType.FLOAT, on_disk=True
    )),
    "plain index": lambda c: c.create_payload_index("rec", "x", models.PayloadSchemaType.FLOAT),
    "delete index": lambda c: c.delete_payload_index("rec", "year"),
    "new vector": lambda c: c.create_vector_name("rec", "more", models.SparseVectorNameConfig(
        sparse=models.SparseVectorConfig(modifier=models.Modifier.IDF)
    )),
    "delete vector": lambda c: c.delete_vector_name("rec", "new"),
    "alias": lambda c: c.update_collection_aliases([
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="rec_alias")),
        models.CreateAliasOperation(create_alias=models.CreateAlias(
            alias_name="other", collection_name="rec"
        )),
    ]),
    "drop": lambda c: c.delete_collection("rec"),
}  # fmt: skip


def outcome(action, client):
    """Return what a client got, an error as the server's message."""
    try:
        found = action(client)
    except UnexpectedResponse as error:
        return json.loads(error.content)["status"]["error"]
    except grpc.RpcError as error:
        return error.details()
    return comparable(found)


def comparable(value):
    """Return an answer as plain values, its numbers to the precision of float32."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6, abs=1e-6)
    if isinstance(value, BaseModel):
        return comparable(value.model_dump(exclude={"version"}))
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    if isinstance(value, dict):
        empty = ("payload", None)  # by REST; gRPC returns an empty one
        return {
            key: comparable(part)
            for key, part in value.items()
            if part != {} and (key, part) != empty
        }
    return value


def everything(server):
    """Return the whole state of a server."""
    return comparable([
        {
            "config": found.config,
            "metadata": found.metadata,
            "schema": found.schema(),
            "points": {str(point): list(stored) for point, stored in found.points().items()},
            "aliases": server.machine.alias_of,
            "name": name,
        }
        for name, found in sorted(server.collections.items())
    ])  # fmt: skip


@pytest.fixture(scope="module")
def world():
    with running_server() as server:
        world = World(server)
        yield world
        world.http.close()


@pytest.fixture(scope="module")
def clients(world):
    """Clients by REST and by gRPC of one server."""
    return [world.server.client(prefer_grpc=prefer) for prefer in (False, True)]


@pytest.mark.parametrize("name", READS)
def test_rest_and_grpc_read_the_same(world, clients, name):
    world.build_rec()
    rest, by_grpc = (outcome(READS[name], client) for client in clients)
    if name == "slices":  # gRPC of 1.18 does not see the condition
        assert "some form of condition" in rest
        assert by_grpc == {"count": POINTS}
        return
    assert rest == by_grpc


@pytest.mark.parametrize("name", WRITES)
def test_rest_and_grpc_write_the_same(world, clients, name):
    outcomes = []
    for client in clients:
        world.build_rec()
        before = everything(world.server)
        answer = outcome(WRITES[name], client)
        outcomes.append([answer, everything(world.server)])
    assert outcomes[0] == outcomes[1]
    refused = isinstance(answer, str)
    assert (outcomes[0][1] == before) == refused

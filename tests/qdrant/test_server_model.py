"""Compare the model of a Qdrant server with answers recorded from a real one, and with itself."""

import copy
import json
import re
import uuid
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse
from tests.support.qdrant_server import running_server
from tests.support.qdrant_server.floats import reread, reread_floats

FIXTURES = Path(__file__).parent / "fixtures"
SINGLE = json.loads((FIXTURES / "recorded-1.18.3.json").read_text())
CLUSTER = json.loads((FIXTURES / "recorded-1.18.3-cluster.json").read_text())
FLOATS = json.loads((FIXTURES / "floats-1.18.3.json").read_text())
CUT = re.compile(r"\.\.\. (\d+) (numbers|in all)")
STRICT = re.compile("Limit exceeded|Exact search disabled|Index required|Rate limiting")
POINTS = 40

QUERY = {"nearest": [0.5] * 64}
REC, STRICT_MODE = (
    next(example["request"] for example in SINGLE["PUT /collections/NAME 200"] if found(example))
    for found in (
        lambda example: "sparse_vectors" in example["request"],
        lambda example: "strict_mode_config" in example["request"],
    )
)


def examples(recorded):
    return [
        pytest.param(*key.rsplit(" ", 1)[0].split(" ", 1), example, id=f"{key}-{number}")
        for key, found in recorded.items()
        for number, example in enumerate(found)
    ]


def expanded(value):
    """Fill up a list that the recording cut."""
    if isinstance(value, dict):
        return {key: expanded(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    cut = CUT.fullmatch(value[-1]) if value and isinstance(value[-1], str) else None
    parts = [expanded(part) for part in (value[:-1] if cut else value)]
    for number in range(len(parts), int(cut[1]) if cut else 0):
        part = copy.deepcopy(parts[number % 2])
        if isinstance(part, dict) and "id" in part:
            part["id"] = number if isinstance(part["id"], int) else str(uuid.UUID(int=number))
        elif isinstance(part, str):
            part = str(uuid.UUID(int=number))
        parts.append(part)
    return parts


def differences(recorded, answered, where="answer"):
    """Yield where the keys and types of two JSON values differ."""
    if type(recorded) is not type(answered):
        yield f"{where}: {recorded!r} was recorded, {answered!r} answered"
    elif isinstance(recorded, dict):
        if all(re.fullmatch(r"\d+|http:.*", key) for key in recorded):  # peers by their ids
            yield from differences(list(recorded.values()), list(answered.values()), where)
        elif recorded.keys() != answered.keys():
            yield f"{where}: {sorted(recorded.keys() ^ answered.keys())}"
        else:
            for key, part in recorded.items():
                yield from differences(part, answered[key], f"{where}.{key}")
    elif isinstance(recorded, list):
        if bool(recorded) != bool(answered):
            yield f"{where}: {len(recorded)} parts were recorded, {len(answered)} answered"
        elif recorded:
            yield from differences(recorded[0], answered[0], f"{where}[0]")


def masked(text):
    """Return an error message without its numbers and addresses, and without the parser's words."""
    if text.startswith("Format error in JSON body"):
        return text.partition(":")[0]
    return re.sub(r"\d+(\.\d+)*", "N", text).partition(". First error captured")[0]


class World:
    """Collections in the state that the recorded requests found."""

    def __init__(self, server):
        self.server, self.http = server, httpx.Client(base_url=server.url, timeout=20)

    def send(self, method, path, body=None):
        return self.http.request(method, path, json=body)

    def done(self, method, path, body=None):
        answer = self.send(method, path, body)
        assert answer.status_code == 200, answer.text

    def build_rec(self):
        self.done("PUT", "/collections/rec", REC)
        schemas = [
            example["request"]
            for example in SINGLE["PUT /collections/NAME/index?wait=true 200"]
            if example["request"]["field_name"] != "quernstone.key"
        ]
        for schema in schemas:
            self.done("PUT", "/collections/rec/index?wait=true", schema)
        self.done(
            "PUT", "/collections/rec/vectors/new", {"dense": {"size": 8, "distance": "Cosine"}}
        )
        upsert = SINGLE["PUT /collections/NAME/points?wait=true 200"][0]["request"]
        payload = upsert["points"][0]["payload"]
        self.done("PUT", "/collections/rec/points?wait=true", {
            "points": [
                {
                    "id": str(uuid.UUID(int=n)),
                    "vector": {
                        "dense": np.random.default_rng(n).normal(size=64).tolist(),
                        "prefix": np.random.default_rng(n).normal(size=16).tolist(),
                        "bm25": {"indices": [n % 7, 7 + n % 7], "values": [1.0, 0.5]},
                    },
                    "payload": expanded(payload) | {"year": n, "tag": f"t{n % 5}", "x": n / 7},
                }
                for n in range(POINTS)
            ]
        })  # fmt: skip
        self.done("POST", "/collections/aliases", {
            "actions": [{"create_alias": {"collection_name": "rec", "alias_name": "rec_alias"}}]
        })  # fmt: skip

    def build_strict(self, spend):
        self.done("PUT", "/collections/strict", STRICT_MODE)
        for _ in range(spend):
            points = [{"id": n, "vector": {"dense": [1.0] * 64}} for n in range(40)]
            self.done("PUT", "/collections/strict/points?wait=true", {"points": points})

    def build_plain(self, request, result):
        """Hold the points that an answer names, and others up to the end of its page."""
        self.done("PUT", "/collections/plain", {"vectors": {"size": 64, "distance": "Cosine"}})
        if not result:
            return
        rows = {point["id"]: point["payload"] for point in result["points"][:2]}
        last = uuid.UUID(list(rows)[-1]).int
        if result["next_page_offset"]:
            more = range(last + 1, last + 1 + request["limit"] - len(rows))
            rows |= {str(uuid.UUID(int=number)): {} for number in more}
            rows[result["next_page_offset"]] = {}
        points = [{"id": i, "vector": [0.5] * 64, "payload": row} for i, row in rows.items()]
        self.done("PUT", "/collections/plain/points?wait=true", {"points": points})

    def prepare(self, method, path, request, answer):
        """Build the collection of a request; return its name."""
        error = answer["status"].get("error", "") if isinstance(answer["status"], dict) else ""
        if "doesn't exist" in error or (method == "DELETE" and path.endswith("NAME")):
            return "nope"
        if method == "PUT" and path.endswith("NAME"):
            self.build_rec()
            return "rec_alias" if "Alias" in error else "rec" if "already" in error else "created"
        text = json.dumps(request)
        if STRICT.search(error) or '"u"' in text:
            self.build_strict(2 if "Operation requires" in error else 0)
            return "strict"
        if "batch" in (request or {}) and "operations" not in request:
            vectors = request["batch"]["vectors"]
            named = vectors if isinstance(vectors, dict) else {"": vectors}
            sizes = {name: rows[0] for name, rows in expanded(named).items() if name != "bm25"}
            params = {name: {"size": len(row), "distance": "Cosine"} for name, row in sizes.items()}
            sparse = {"sparse_vectors": {"bm25": {}}} if "bm25" in named else {}
            self.done("PUT", "/collections/loaded", {"vectors": params, **sparse})
            return "loaded"
        plain = "quernstone" in text or '"with_payload": []' in text or "4838" in text
        if plain and method == "POST" and "/delete" not in path:
            self.build_plain(request, answer["result"])
            return "plain"
        self.build_rec()
        return "rec"


@pytest.fixture
def world():
    with running_server() as server:
        world = World(server)
        yield world
        world.http.close()


PARTIAL = {"/metrics": "is shorter", "/telemetry?details_level=8": "is shorter"}
TEXTS = ("/healthz", "/readyz")


@pytest.mark.parametrize(("method", "path", "recorded"), [
    param for param in examples(SINGLE)
    if param.values[1] not in PARTIAL and param.values[:2] != ("GET", "/collections/NAME")
])  # fmt: skip
def test_the_model_answers_as_the_server_did(world, method, path, recorded):
    request, answer = recorded["request"], recorded["answer"]
    if path in TEXTS:
        assert world.send(method, path).text == answer
        return
    if path == "/collections/NAME" and method == "POST":  # NAME replaced the word "aliases"
        world.build_rec()
        name = "aliases"
    elif path == "/":
        name = ""
    else:
        name = world.prepare(method, path, request, answer)
    if path == "/collections/NAME/snapshots" and method == "GET":
        world.done("POST", "/collections/rec/snapshots")
    item = "new" if "/vectors/" in path else "year"
    found = world.send(method, path.replace("NAME", name).replace("ITEM", item), expanded(request))
    assert found.status_code == recorded["status"], found.text
    assert ("retry-after" in found.headers) == ("retry-after" in recorded["headers"])
    assert list(differences(answer, found.json())) == []
    if isinstance(answer.get("status"), dict):
        assert masked(found.json()["status"]["error"]) == masked(answer["status"]["error"])
    elif answer.get("result") in (True, False):
        assert found.json()["result"] == answer["result"]


@pytest.mark.parametrize("recorded", SINGLE["GET /collections/NAME 200"])
def test_a_collection_is_described_as_it_was_created(world, recorded):
    wanted = recorded["answer"]["result"]
    config = wanted["config"]
    body = {
        "vectors": config["params"]["vectors"],
        "hnsw_config": config["hnsw_config"],
        "optimizers_config": config["optimizer_config"],
        **{
            name: config["params"][name] for name in ("sparse_vectors",) if name in config["params"]
        },
        **{name: config[name] for name in ("quantization_config", "metadata") if config.get(name)},
    }
    world.done("PUT", "/collections/c", body)
    for name, index in wanted["payload_schema"].items():
        schema = {"field_name": name, "field_schema": index.get("params", index["data_type"])}
        world.done("PUT", "/collections/c/index?wait=true", schema)
    found = world.send("GET", "/collections/c").json()
    assert list(differences(recorded["answer"], found)) == []
    assert found["result"]["config"] == config
    schema = found["result"]["payload_schema"]
    assert schema == {
        name: {**index, "points": 0} for name, index in wanted["payload_schema"].items()
    }


def test_telemetry_is_a_part_of_the_servers(world):
    ((example,),) = (SINGLE["GET /telemetry?details_level=8 200"],)
    world.done("PUT", "/collections/c", {"vectors": {"size": 256, "distance": "Cosine"}})
    world.done("PUT", "/collections/c/index", {
        "field_name": "doc_id", "field_schema": {"type": "keyword", "on_disk": True}
    })  # fmt: skip
    world.done("PATCH", "/collections/c", {"optimizers_config": {"indexing_threshold": 1}})
    points = [{"id": n, "vector": [1.0] * 256} for n in range(10)]
    world.done("PUT", "/collections/c/points?wait=true", {"points": points})
    world.done("PATCH", "/collections/c", {"metadata": {"quernstone": {}}})
    found = world.send("GET", "/telemetry?details_level=8").json()["result"]
    _, segment = found["collections"]["collections"][0]["shards"][0]["local"]["segments"]
    assert segment["config"]["vector_data"][""]["index"]["type"] == "hnsw"

    def check(part, recorded, where):
        assert type(part) is type(recorded), where
        if isinstance(part, dict) and not where.endswith((".vectors", ".metadata", "index_schema")):
            assert part.keys() <= recorded.keys(), where
            for name, value in part.items():
                check(value, recorded[name], f"{where}.{name}")
        elif isinstance(part, list) and part and recorded:
            check(part[-1], recorded[1 if where.endswith("segments") else 0], where)

    check(found, example["answer"]["result"], "telemetry")


@pytest.mark.parametrize(("method", "path", "recorded"), examples(CLUSTER))
def test_a_cluster_answers_as_three_nodes_did(method, path, recorded):
    with running_server(nodes=3, write_consistency=2) as server:
        world = World(server)
        create = CLUSTER["PUT /collections/NAME 200"][0]["request"]
        upsert = CLUSTER["PUT /collections/NAME/points?wait=true 200"][0]["request"]
        world.done("PUT", "/collections/held", create)
        if "points_count" not in json.dumps(recorded["answer"]):
            world.done("PUT", "/collections/held/points?wait=true", expanded(upsert))
        if recorded["status"] == 500 or "Failed to connect" in json.dumps(recorded["answer"]):
            server.nodes[1].kill()
        name = "created" if (method, path) == ("PUT", "/collections/NAME") else "held"
        found = world.send(method, path.replace("NAME", name), expanded(recorded["request"]))
        world.http.close()
    assert found.status_code == recorded["status"], found.text
    assert list(differences(recorded["answer"], found.json())) == []
    if recorded["status"] == 500:
        wanted = recorded["answer"]["status"]["error"]
        assert masked(found.json()["status"]["error"]) == masked(wanted)


@pytest.mark.parametrize("way", FLOATS)
def test_floats_come_back_as_the_server_returned_them(way):
    for sent, received in FLOATS[way]["examples"]:
        assert reread(sent) == received
        assert reread(-sent) == -received
    cents = [number / 100 for number in range(-5000, 5000)]
    assert reread_floats({"x": [cents]}) == {"x": [cents]}


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


@pytest.mark.parametrize("name", READS)
def test_rest_and_grpc_read_the_same(world, name):
    world.build_rec()
    rest, by_grpc = (
        outcome(READS[name], world.server.client(prefer_grpc=prefer)) for prefer in (False, True)
    )
    if name == "slices":  # gRPC of 1.18 does not see the condition
        assert "some form of condition" in rest
        assert by_grpc == {"count": POINTS}
        return
    assert rest == by_grpc


@pytest.mark.parametrize("name", WRITES)
def test_rest_and_grpc_write_the_same(name):
    outcomes = []
    for prefer in (False, True):
        with running_server() as server:
            world = World(server)
            world.build_rec()
            world.http.close()
            before = everything(server)
            answer = outcome(WRITES[name], server.client(prefer_grpc=prefer))
            outcomes.append([answer, everything(server)])
    assert outcomes[0] == outcomes[1]
    refused = isinstance(answer, str)
    assert (outcomes[0][1] == before) == refused

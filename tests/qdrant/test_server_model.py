"""Compare the model of a Qdrant server with the answers recorded from a real one."""

import json
import re

import pytest
from tests.support.qdrant_recordings import CLUSTER, FIXTURES, SINGLE, World, expanded
from tests.support.qdrant_server import running_server
from tests.support.qdrant_server.floats import reread, reread_floats

FLOATS = json.loads((FIXTURES / "floats-1.18.3.json").read_text())


def examples(recorded):
    return [
        pytest.param(*key.rsplit(" ", 1)[0].split(" ", 1), example, id=f"{key}-{number}")
        for key, found in recorded.items()
        for number, example in enumerate(found)
    ]


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


@pytest.fixture(scope="module")
def shared_world():
    with running_server() as server:
        world = World(server)
        yield world
        world.http.close()


@pytest.fixture
def world(shared_world):
    yield shared_world
    shared_world.clear()


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

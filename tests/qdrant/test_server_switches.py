"""The switches of the model of a Qdrant server: faults, limits, replicas and states."""

import time

import grpc
import pytest
from google.protobuf.message import DecodeError
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tests.support.qdrant_server import running_server

ERRORS = (
    UnexpectedResponse, ResponseHandlingException, grpc.RpcError, ResourceExhaustedResponse,
)  # fmt: skip
ALL = models.ReadConsistencyType.ALL
SEVENTHS = {f"k{n}": n / 7 for n in range(600, 700)}


@pytest.fixture
def server():
    with running_server() as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def client(server, request):
    client = server.client(prefer_grpc=request.param == "grpc")
    create(client)
    return client


def create(client, **options):
    params = models.VectorParams(size=4, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=params, **options)


def points(*ids, payload=None):
    return [models.PointStruct(id=i, vector=[1.0, 2.0, 3.0, i], payload=payload or {}) for i in ids]


def ids(client, **options):
    return [point.id for point in client.scroll("docs", limit=100, **options)[0]]


def nested(levels):
    return {"a": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("fault", "applied", "fails"),
    [
        ("500", False, True), ("503", False, True), ("429-bare", False, True),
        ("403", False, True), ("drop", False, True), ("lost", True, True),
        ("partial", True, True), ("never", False, False), ("late", False, False),
    ],
)  # fmt: skip
def test_a_fault_of_one_write(server, client, fault, applied, fails):
    server.script = [fault]
    if fails:
        with pytest.raises(ERRORS):
            client.upsert("docs", points(1))
    else:
        assert client.upsert("docs", points(1)).status == "wait_timeout"
    assert list(server.collections["docs"].points()) == [1] * applied
    assert server.faults == {fault: 1}
    assert ids(client) == [1] * (applied or fault == "late")
    assert server.requests[-2].path == "/collections/docs/points"


def test_rates_are_counted_in_points(server, client):
    server.strict = {"write_rate_limit": 60, "read_rate_limit": 60}
    client.upsert("docs", points(*range(40)))
    with pytest.raises(ResourceExhaustedResponse) as late:
        client.upsert("docs", points(*range(40)))
    assert 18 <= late.value.retry_after_s <= 20
    with pytest.raises(ERRORS) as large:
        client.retrieve("docs", range(61))
    assert "split your request" in str(getattr(large.value, "content", large.value))
    assert not isinstance(large.value, ResourceExhaustedResponse)
    assert client.retrieve("docs", range(30))
    assert client.get_collection("docs").config.strict_mode_config.read_rate_limit == 60


@pytest.mark.parametrize(
    "refused",
    [
        lambda c: c.scroll("docs", limit=11),
        lambda c: c.query_points(
            "docs", [1.0] * 4, limit=5, prefetch=models.Prefetch(query=[1.0] * 4, limit=11)
        ),
        lambda c: c.query_points(
            "docs",
            [1.0] * 4,
            search_params=models.SearchParams(
                quantization=models.QuantizationSearchParams(oversampling=3.0)
            ),
        ),
        lambda c: c.count("docs", exact=True),
        lambda c: c.count("docs", exact=False, timeout=6),
        lambda c: c.upsert("docs", points(*range(6))),
        lambda c: c.delete("docs", models.Filter(
            must=[models.FieldCondition(key="x", match=models.MatchValue(value=1))]
        )),
    ],
)  # fmt: skip
def test_strict_mode(server, client, refused):
    refusals = []
    for strict in (None, {
        "max_query_limit": 10, "search_max_oversampling": 1.5, "search_allow_exact": False,
        "max_timeout": 5, "upsert_max_batchsize": 5, "unindexed_filtering_update": False,
    }):  # fmt: skip
        server.strict = strict
        try:
            refused(client)
        except ERRORS as error:
            refusals.append(str(error))
    assert len(refusals) == 1


def test_floats_and_keys_change_on_their_way(server, client):
    client.upsert("docs", points(1, payload=SEVENTHS))
    assert client.retrieve("docs", [1])[0].payload == SEVENTHS
    server.float_noise = True
    noisy = client.retrieve("docs", [1])[0].payload
    changed = {key for key in SEVENTHS if noisy[key] != SEVENTHS[key]}
    assert 5 < len(changed) < 50
    assert noisy == pytest.approx(SEVENTHS, rel=1e-15, abs=0)
    assert client.retrieve("docs", [1])[0].payload == noisy
    client.update_collection("docs", metadata={"x": 632 / 7})
    assert client.get_collection("docs").config.metadata == {"x": 90.28571428571428}


@pytest.mark.parametrize(("nodes", "shuffled"), [(1, False), (2, True)])
def test_keys_are_shuffled_by_rest_on_a_cluster_only(nodes, shuffled):
    with running_server(nodes=nodes) as server:
        client = server.client()
        create(client)
        client.upsert("docs", points(1, payload=SEVENTHS))
        server.shuffle_keys = True
        assert (list(client.retrieve("docs", [1])[0].payload) != list(SEVENTHS)) == shuffled


@pytest.mark.parametrize(("transport", "levels"), [("rest", 122), ("grpc", 31)])
def test_payloads_nest_to_a_limit(server, transport, levels):
    client = server.client(prefer_grpc=transport == "grpc")
    create(client)
    fits = {"metadata": nested(levels)}
    client.upsert("docs", points(1, payload=fits))
    assert server.collections["docs"].points()[1][0] == fits
    # protobuf also refuses it in the client
    with pytest.raises((*ERRORS, DecodeError), match=r"recursion limit|MaxDepth"):
        client.upsert("docs", points(2, payload={"metadata": nested(levels + 3)}))


def test_requests_have_a_limit_of_bytes(server, client):
    server.request_bytes = dict.fromkeys(server.request_bytes, 2_000)
    client.upsert("docs", points(1, payload={"text": "a" * 1_000}))
    with pytest.raises(ERRORS, match=r"too large|larger than allowed"):
        client.upsert("docs", points(2, payload={"text": "a" * 3_000}))


def test_a_grey_collection_is_woken_by_an_update(server, client):
    server.status = ["grey", "yellow", "green"]
    assert client.get_collection("docs").status == "grey"
    server.status = "grey"
    client.update_collection("docs", optimizers_config=models.OptimizersConfigDiff())
    assert client.get_collection("docs").status == "green"


def test_a_graph_is_built_above_the_threshold_and_dropped_by_m0(server, client):
    def graph():
        collection = server.collections["docs"]
        *_, segment = collection.optimizer.segments(collection.config, {}, collection.count())
        return segment["config"]["vector_data"][""]["index"]["type"], collection.indexed_vectors()

    client.upsert("docs", points(*range(80)))
    assert graph() == ("plain", 0)
    threshold = models.OptimizersConfigDiff(indexing_threshold=1)
    client.update_collection("docs", optimizers_config=threshold)
    assert graph() == ("hnsw", 80)
    threshold = models.OptimizersConfigDiff(indexing_threshold=0)
    client.update_collection("docs", optimizers_config=threshold)
    client.upsert("docs", points(*range(80, 90)))
    assert graph() == ("hnsw", 80)
    client.update_collection(
        "docs",
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
        hnsw_config=models.HnswConfigDiff(m=0),
    )
    assert graph() == ("plain", 90)


def test_a_snapshot_is_recovered_under_another_name(server, client):
    client.update_collection("docs", metadata={"a": 1})
    client.upsert("docs", points(1))
    snapshot = client.create_snapshot("docs")
    client.upsert("docs", points(2))
    client.recover_snapshot("copy", f"{server.url}/collections/docs/snapshots/{snapshot.name}")
    assert client.get_collection("copy").config.metadata == {"a": 1}
    assert (client.count("copy").count, client.count("docs").count) == (1, 2)
    assert client.list_snapshots("docs") == [snapshot]


def test_metadata_are_late(server, client):
    server.metadata_delay = 0.2
    client.update_collection("docs", metadata={"a": 1})
    assert client.get_collection("docs").config.metadata is None
    time.sleep(0.21)
    assert client.get_collection("docs").config.metadata == {"a": 1}


@pytest.mark.parametrize(("version", "fails"), [("1.17.1", True), ("1.18.0", False)])
def test_an_older_version_does_less(version, fails):
    with running_server(version) as server:
        client = server.client()
        client.create_collection("docs", vectors_config={})
        config = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig())
        if fails:
            with pytest.raises(UnexpectedResponse, match="404"):
                client.create_vector_name("docs", "words", config)
        else:
            client.create_vector_name("docs", "words", config)
        assert client.info().version == version


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_a_write_that_one_replica_missed(transport):
    with running_server(nodes=3, write_consistency=2) as server:
        first, third = (server.client(prefer_grpc=transport == "grpc", node=n) for n in (0, 2))
        create(first)
        first.upsert("docs", points(0))
        server.nodes[1].kill()
        with pytest.raises(ERRORS):
            first.upsert("docs", points(1))
        assert ids(first) == ids(third) == [0, 1]
        assert first.count("docs").count == 2
        with pytest.raises(ERRORS):
            ids(first, consistency=ALL)
        with pytest.raises(ERRORS):
            server.client(node=1).info()
        server.nodes[1].start()
        assert ids(server.client(prefer_grpc=transport == "grpc", node=1)) == [0]
        assert ids(first) == [0, 1]
        assert ids(first, consistency=ALL) == ids(third, consistency=ALL) == [0]
        first.upsert("docs", points(1))
        assert ids(first, consistency=ALL) == [0, 1]


def test_a_replica_that_missed_an_acknowledged_write_catches_up():
    with running_server(nodes=2) as server:
        client = server.client()
        create(client)
        server.nodes[1].kill()
        client.upsert("docs", points(1))
        assert ids(client, consistency=ALL) == [1]
        assert list(server.collections["docs"].points(1)) == []
        server.nodes[1].start()
        assert list(server.collections["docs"].points(1)) == [1]
        server.script = ["partial"]
        with pytest.raises(ERRORS):
            client.upsert("docs", points(2))
        assert [list(server.collections["docs"].points(n)) for n in (0, 1)] == [[1, 2], [1]]


def test_the_second_creator_of_a_collection_is_refused(server, client):
    with pytest.raises(ERRORS, match=r"already exists|409"):
        create(client)
    other = QdrantClient(url=server.url, check_compatibility=False)
    assert other.collection_exists("docs")
    other.close()

"""`verify` accepts an intact collection and finds every kind of change."""

import itertools
import re
from contextlib import closing

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, EdgeTarget, ProvenanceError, QdrantLoader
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.errors import CollectionReplacedError
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import ClientTarget, as_target
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"Document {n} speaks of mills. " * (n % 4), "n": n, "f": n / 7}
    for n in range(60)
]


@pytest.fixture
def target(client, embedder):
    QdrantLoader(client, "docs", embedder, chunk_size=50, chunk_overlap=0).load(RECORDS)
    return as_target(client, "docs")


def some_point(client, number=0):
    points, _ = client.scroll("docs", limit=100, with_vectors=True)
    return points[number]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_intact_collection_passes(client, embedder, layout):
    loader = QdrantLoader(client, "docs", embedder, layout=layout, chunk_size=50, chunk_overlap=0)
    chunks = loader.load(RECORDS).chunks
    report = verify(as_target(client, "docs"), embedder, sample=40, re_embed=10)
    assert report.passed, report.problems
    assert (report.points, report.vectors, report.embedded, report.foreign) == (chunks, 40, 10, 0)
    assert report.least_cosine > 0.9999


@pytest.mark.parametrize("preset", ["mrl", "uint8"])
def test_presets_pass(client, embedder, preset):
    QdrantLoader(client, "docs", embedder, preset=preset).load(RECORDS)
    report = verify(as_target(client, "docs"), embedder)
    assert report.passed, report.problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"page_content": "another text"}, "`page_content` changed"),
        ({"metadata": {"n": 8}}, "`metadata` changed"),
        (
            {"page_content": "another text", "_node_content": "{}"},
            "its text, metadata or source differs from what was loaded",
        ),
        ({"n": -1}, "`n` changed"),
        ({"doc_id": "d999"}, "`doc_id` changed"),
        ({"quernstone": {"key": "d1"}}, "its payload field `quernstone` is damaged"),
        (
            {"quernstone": {"key": "zz", "chunk": 0, "hash": ""}},
            "its id does not match its record and chunk",
        ),
    ],
)
def test_a_changed_payload_is_found(client, embedder, target, change, problem):
    point = some_point(client)
    client.set_payload("docs", payload=change, points=[point.id])
    report = verify(target, embedder)
    assert not report.passed
    assert report.problems[0].startswith(f"point {point.id}")
    assert any(problem in found for found in report.problems)


def test_a_changed_vector_is_found(client, embedder, target):
    point = some_point(client)
    wrong = [models.PointVectors(id=point.id, vector=[1.0, *[0.0] * 63])]
    client.update_vectors("docs", points=wrong)
    report = verify(target, embedder, sample=1000, re_embed=1000)
    assert report.failures == 1
    assert report.problems[0].startswith(f"point {point.id}: its text embedded again has a cosine")
    assert verify(
        target, None, sample=1000
    ).passed  # without an embedder, the vector is not compared with the text


def test_bad_vectors_are_found(embedder, target, monkeypatch):
    real = target.scroll

    def scroll(fields, *, with_vectors=False, **options):
        for point in real(fields, with_vectors=with_vectors, **options):
            if with_vectors:
                first = next(iter(point.id))
                bad = {"0": np.zeros(64), "1": np.full(64, np.nan), "2": np.ones(63)}
                if first in bad:
                    point.vectors[""] = bad[first].astype(np.float32)
            yield point

    monkeypatch.setattr(target, "scroll", scroll)
    report = verify(target, embedder, sample=1000)
    for problem in ("has length 0.000", "contains NaN", "has 63 numbers instead of 64"):
        assert any(problem in found for found in report.problems), problem


def test_foreign_points_are_counted_and_left_alone(client, embedder, target):
    client.upsert("docs", [models.PointStruct(id=7, vector=[1.0] * 64, payload={"a": 1})])
    report = verify(target, embedder)
    assert report.passed
    assert report.foreign == 1


def test_what_cannot_be_verified(client, embedder, make_embedder, target):
    with pytest.raises(ProvenanceError):
        verify(target, make_embedder(model="other", revision="2"))
    vectors = models.VectorParams(size=64, distance=models.Distance.COSINE)
    client.create_collection("foreign", vectors_config=vectors)
    messages = {None: "nothing is recorded", embedder: "does not record which model"}
    for chosen, message in messages.items():
        with pytest.raises(CollectionError, match=message):
            verify(as_target(client, "foreign"), chosen)


@pytest.mark.parametrize("node", ["", "{", "[]", '{"metadata": 3}', 5, None])
@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_a_damaged_node_is_found(client, embedder, layout, node):
    QdrantLoader(client, "docs", embedder, layout=layout).load(RECORDS)
    point = some_point(client)
    client.set_payload("docs", payload={"_node_content": node}, points=[point.id])
    report = verify(as_target(client, "docs"), embedder)
    assert report.failures == 1
    assert report.problems[0].startswith(f"point {point.id}")


def test_a_wrong_prefix_is_found_without_a_model(client, embedder):
    loader = QdrantLoader(client, "docs", embedder, preset="mrl")
    loader.load(RECORDS)
    points, _ = client.scroll("docs", limit=100)
    wrong = np.eye(32, dtype=np.float32)[0].tolist()
    changed = [models.PointVectors(id=p.id, vector={"prefix": wrong}) for p in points[:40]]
    client.update_vectors("docs", points=changed)
    report = verify(as_target(client, "docs"), None)
    assert report.failures == 40
    assert "its vector `prefix` is not the beginning of `dense`" in report.problems[0]


def test_every_named_vector_is_compared_with_the_text(client, embedder):
    """Both vectors fit each other, but belong to another text."""
    QdrantLoader(client, "docs", embedder, preset="mrl").load(RECORDS)
    point, other = client.scroll("docs", limit=2, with_vectors=True)[0]
    changed = [models.PointVectors(id=point.id, vector=other.vector)]
    client.update_vectors("docs", points=changed)
    report = verify(as_target(client, "docs"), embedder, re_embed=1000)
    assert report.failures == 2
    assert ["`dense`" in problem for problem in report.problems] == [True, False]
    assert "`prefix`" in report.problems[1]


@pytest.mark.parametrize("value", [0.0, 128.0, 255.0])
def test_uint8_vectors_of_one_value_are_found(client, embedder, value):
    QdrantLoader(client, "docs", embedder, preset="uint8").load(RECORDS)
    points, _ = client.scroll("docs", limit=100)
    half = points[: len(points) // 2]
    changed = [models.PointVectors(id=p.id, vector=[value] * 64) for p in half]
    client.update_vectors("docs", points=changed)
    report = verify(as_target(client, "docs"), None)
    assert report.failures == len(half)
    assert "its vector has length" in report.problems[0]


@pytest.mark.parametrize("lost", [[0], [2], [1, 2], [0, 1, 2, 3], [0, 2, 3, 5]])
def test_missing_chunks_are_found(client, embedder, lost):
    text = " ".join(f"Sentence {n} about mills and their stones." for n in range(30))
    records = [{"id": name, "text": text} for name in ("a", "b", "c")]
    loader = QdrantLoader(client, "docs", embedder, chunk_size=100, chunk_overlap=0)
    chunks = loader.load(records).chunks // 3
    assert chunks > 8
    client.delete("docs", [point_id(loader.provenance.namespace, "b", n) for n in lost])
    report = verify(as_target(client, "docs"), None)
    runs = [n for n in lost if n + 1 not in lost]
    assert report.failures == len(runs)
    assert all("record 'b': chunk" in problem for problem in report.problems)
    assert any(f"but chunk {runs[0] + 1} is stored" in problem for problem in report.problems)
    assert sum(map(counted, report.problems)) == len(lost)


def counted(problem):
    """Return the number of chunks that a problem calls missing."""
    found = re.search(r"chunks? (\d+)(?: to (\d+))? (?:is|are) missing", problem)
    return int(found[2] or found[1]) - int(found[1]) + 1


@pytest.mark.parametrize("place", ["embedded", "edge"])
def test_wrong_bm25_vectors_are_found(tmp_path, embedder, place):
    client = QdrantClient(":memory:")
    target = as_target(client, "docs") if place == "embedded" else EdgeTarget(tmp_path, "docs")
    loader = QdrantLoader(target, "docs", embedder, hybrid=True)
    records = [{"id": f"d{n}", "text": f"The mill number {n} grinds rye."} for n in range(30)]
    records.append({"id": "stop", "text": "the of and"})
    loader.load(records)
    report = verify(target, embedder)
    assert report.passed, report.problems
    assert (report.points, report.bm25) == (31, 31)

    wrong = Bm25Text("The mill number 8 grinds rye.", "english", 2)
    ids = [point_id(loader.provenance.namespace, f"d{n}", 0) for n in (3, 5)]
    dense = embedder.embed_documents([f"The mill number {n} grinds rye." for n in (3, 5)])
    payloads = {p.id: p.payload for p in target.scroll(None)}
    target.upsert(ids, [payloads[i] for i in ids], {"": dense, "bm25": [wrong, wrong]})
    report = verify(target, embedder, sample=1000)
    assert report.failures == 2
    assert all("its vector `bm25` is not that of its text" in p for p in report.problems)
    target.close()


@pytest.mark.parametrize("grpc", [False, True])
def test_points_of_one_replica_are_not_confirmed(embedder, monkeypatch, grpc):
    monkeypatch.setattr("quernstone_qdrant.verify._REPLICA_PATIENCE", 0.2)
    with (
        running_server(nodes=3) as server,
        closing(server.client(prefer_grpc=grpc)) as client,
    ):
        server.float_noise = server.shuffle_keys = True
        preset = CollectionSettings(replication_factor=3)
        target = as_target(client, "docs")
        QdrantLoader(target, "docs", embedder, preset=preset).load(RECORDS)
        report = verify(target, embedder)
        assert report.passed, report.problems
        server.nodes[2].kill()
        report = verify(target, embedder)
        assert (report.failures, report.unconfirmed) == (0, report.points)
        assert report.points == 45
        assert not report.passed
        server.nodes[2].start()


@pytest.mark.parametrize("grpc", [False, True])
def test_one_failed_read_leaves_no_point_unconfirmed(embedder, grpc):
    """Each read from every replica fails once: of payloads, and of the vectors of the sample."""
    with running_server(nodes=2) as server, closing(server.client(prefer_grpc=grpc)) as client:
        target = as_target(client, "docs")
        preset = CollectionSettings(replication_factor=2)
        QdrantLoader(target, "docs", embedder, preset=preset).load(RECORDS[:5])
        turns = itertools.cycle(["500", None])
        server.chaos = lambda _, path: next(turns) if path.endswith("/points/scroll") else None
        report = verify(target, embedder, sample=2)
        assert (report.passed, report.unconfirmed) == (True, 0)


def test_a_point_that_one_replica_lacks_is_found(embedder):
    with running_server(nodes=2) as server, closing(server.client()) as client:
        preset = CollectionSettings(replication_factor=2)
        target = as_target(client, "docs")
        QdrantLoader(target, "docs", embedder, preset=preset).load(RECORDS)
        other = next(r for r in server.collections["docs"].replicas if r.node != 0)
        other.client.delete("docs", [some_point(client).id])
        report = verify(target, embedder)
        assert report.failures == 1
        assert "its replicas differ" in report.problems[0]


def test_a_collection_that_is_replaced_meanwhile_is_not_confirmed(client, make_embedder):
    class Replaced(ClientTarget):
        def count(self):
            counted = super().count()
            client.delete_collection("docs")
            QdrantLoader(client, "docs", make_embedder()).load(RECORDS)
            return counted

    QdrantLoader(client, "docs", make_embedder()).load(RECORDS)
    with pytest.raises(CollectionReplacedError, match="deleted and created again"):
        verify(Replaced(client, "docs"), sample=0)


def test_an_alias_that_is_switched_meanwhile_is_noticed(either_client, embedder):
    for name in ("one", "two"):
        QdrantLoader(either_client, name, embedder).load(RECORDS)

    def lead_to(name):
        create = models.CreateAlias(alias_name="docs", collection_name=name)
        either_client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])

    class Switched(ClientTarget):
        def count(self):
            lead_to("two")
            return super().count()

    lead_to("one")
    with pytest.raises(CollectionReplacedError, match="switched from 'one' to 'two'"):
        verify(Switched(either_client, "docs"), sample=0)

"""`verify` accepts an intact collection and finds every kind of change."""

import itertools
import math
import random
import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from tests.qdrant.conftest import WordEmbedder
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, EdgeTarget, ProvenanceError, QdrantLoader, Record
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
    report = verify(as_target(client, "docs"), embedder, sample=40, anew=10)
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
    report = verify(target, embedder, sample=1000, anew=1000)
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


class RoundingTarget:
    """Reads like a server: maps come back in any order, and floats rounded."""

    def __init__(self, target, rng, change=lambda payload: payload):
        self._target, self._rng, self._change = target, rng, change

    def __getattr__(self, name):
        return getattr(self._target, name)

    def pinned(self):
        return self

    def payloads(self, ids, fields):
        return {i: self._read(p) for i, p in self._target.payloads(ids, fields).items()}

    def scroll(self, fields, **options):
        for point in self._target.scroll(fields, **options):
            payload = self._read(point.payload)
            yield replace(point, payload=self._change(payload) if fields is None else payload)

    def _read(self, value):
        if isinstance(value, dict):
            keys = list(value)
            self._rng.shuffle(keys)
            return {key: self._read(value[key]) for key in keys}
        if isinstance(value, list):
            return [self._read(item) for item in value]
        if isinstance(value, float) and value:
            for _ in range(self._rng.randrange(4)):
                value = math.nextafter(value, self._rng.choice((0.0, math.inf, -math.inf)))
        return value


finite = st.floats(-1e300, 1e300).map(lambda x: x + 0.0)
names = st.text(max_size=5) | st.sampled_from(
    "page_content metadata quernstone text doc_id _node_content chunk last floats a.b".split()
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
metadata = st.dictionaries(names, values, max_size=4)


def leaves(value, path=()):
    """Yield the path of each leaf: a value that is not a container, or an empty one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)) and item:
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def other_value(value):
    if isinstance(value, float):
        return value * 1.001 if abs(value) > 1e-300 else value + 1
    return {bool: lambda v: not v, int: lambda v: 0 if v else 1, str: lambda v: v + "x"}.get(
        type(value), lambda v: 0
    )(value)


def load_one(layout, metadata):
    client, embedder = QdrantClient(":memory:"), WordEmbedder()
    loader = QdrantLoader(client, "docs", embedder, layout=layout)
    loader.load([Record("k", "A quern is a hand mill.", metadata, source="s")])
    return as_target(client, "docs"), embedder


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@example({"_node_content": ""}, random.Random(0))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rounded_floats_and_shuffled_keys_pass(layout, metadata, rng):
    target, embedder = load_one(layout, metadata)
    read = RoundingTarget(target, rng)
    report = verify(read, embedder)
    assert report.passed, report.problems
    assert (report.points, report.unchecked) == (1, 0)
    again = QdrantLoader(read, "docs", embedder).load(
        [Record("k", "A quern is a hand mill.", metadata, source="s")]
    )
    assert (again.embedded, again.skipped) == (0, 1)


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_changed_leaf_is_found(layout, metadata, rng):
    target, _ = load_one(layout, metadata)

    def change(payload):
        *path, last = rng.choice(list(leaves(payload)))
        inner = payload
        for key in path:
            inner = inner[key]
        inner[last] = other_value(inner[last])
        return payload

    report = verify(RoundingTarget(target, rng, change), None)
    assert report.failures, "the change was not noticed"
    assert not report.unchecked


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_one_changed_leaf_inside_a_node_is_found(layout, metadata, rng):
    target, _ = load_one(layout, metadata)

    def change(payload):
        node = orjson.loads(payload["_node_content"])
        *path, last = rng.choice(list(leaves(node)))
        inner = node
        for key in path:
            inner = inner[key]
        inner[last] = other_value(inner[last])
        return {**payload, "_node_content": orjson.dumps(node).decode()}

    assert verify(RoundingTarget(target, rng, change), None).failures


def old_payload(payload):
    """Return a payload as a version wrote it that did not keep the last bits of floats."""
    own = {name: value for name, value in payload["quernstone"].items() if name != "floats"}
    return {**payload, "quernstone": own}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rounded_floats_of_an_older_version(layout):
    """The node's JSON holds exact floats. Without it, nothing says which floats were loaded."""
    target, embedder = load_one(layout, {"f": 90.28571428571429, "n": 3})

    def rounded(payload):
        for field in (payload, payload.get("metadata", {})):
            if "f" in field:
                field["f"] = 90.28571428571428
        return old_payload(payload)

    report = verify(RoundingTarget(target, random.Random(0), rounded), embedder)
    assert report.passed, report.problems
    assert report.unchecked == (layout in ("langchain", "plain"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changes_that_no_rounding_explains_are_found_in_older_points(layout):
    target, embedder = load_one(layout, {"n": 3})

    def changed(payload):
        field = payload.get("metadata") or payload
        field["n"] = 4
        return old_payload(payload)

    report = verify(RoundingTarget(target, random.Random(0), changed), embedder)
    assert (report.failures, report.unchecked) == (1, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edge_rounds_floats(tmp_path, embedder, layout):
    edge = pytest.importorskip("quernstone_qdrant.targets.edge")
    target = edge.EdgeTarget(tmp_path, "docs")
    records = [{"id": f"r{n}", "text": f"Record {n}.", "f": n / 7} for n in range(600, 700)]
    loader = QdrantLoader(target, "docs", embedder, layout=layout)
    loader.load(records)
    report = verify(target, embedder)
    assert report.passed, report.problems
    assert report.rounded > 5
    assert loader.load(records).embedded == 0
    target.close()


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
    report = verify(as_target(client, "docs"), embedder, anew=1000)
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

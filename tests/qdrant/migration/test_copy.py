"""`copy_collection`: between all kinds of targets, again after a stop, and what it refuses."""

from contextlib import closing

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import (
    CollectionError,
    QdrantLoader,
    QdrantSearcher,
    TargetError,
    copy_collection,
)
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"The mill number {n} grinds rye.", "n": n, "f": n / 7}
    for n in range(700)
]
PLACES = ("embedded", "edge", "rest", "grpc")
MRL = CollectionSettings(vector="dense", prefix=32, indexes={"n": "integer"})


def found(target, embedder):
    searcher = QdrantSearcher(target, target.collection, embedder)
    return {n: round(searcher.search(f"mill {n}", limit=1)[0].score, 5) for n in range(5)}


@pytest.mark.parametrize("there", PLACES)
@pytest.mark.parametrize("here", PLACES)
def test_a_copy_equals_its_source(place, embedder, here, there):
    source, copy = place(here), place(there, "copied")
    QdrantLoader(source, "docs", embedder, preset=MRL, hybrid=True).load(RECORDS[:300])

    first = copy_collection(source, copy)
    assert (first.points, first.copied, first.unchanged, first.extra) == (300, 300, 0, 0)
    again = copy_collection(source, copy)
    assert (again.points, again.copied, again.unchanged, again.extra) == (300, 0, 300, 0)
    report = verify(copy, embedder, sample=300)
    assert report.passed, report.problems
    assert report.points == report.bm25 == 300
    assert found(copy, embedder) == found(source, embedder)
    if there != "embedded":
        assert copy.state().payload_indexes["metadata.n"] == "integer"

    embedder.embedded.clear()
    later = QdrantLoader(copy, "copied", embedder).load(RECORDS[:310])
    assert (later.skipped, later.embedded) == (300, 10)


@pytest.mark.parametrize("datatype", ["float16", "uint8"])
def test_other_datatypes_are_copied(place, embedder, datatype):
    source, copy = place("embedded"), place("rest")
    preset = CollectionSettings(datatype=datatype)
    QdrantLoader(source, "docs", embedder, preset=preset).load(RECORDS[:50])
    assert copy_collection(source, copy).copied == 50
    assert copy_collection(source, copy).unchanged == 50
    assert verify(copy, embedder).passed


def test_only_differences_are_written(place, embedder):
    source, copy = place("rest"), place("embedded")
    loader = QdrantLoader(source, "docs", embedder, hybrid=True)
    loader.load(RECORDS[:600])
    copy_collection(source, copy)
    loader.load([{**RECORDS[3], "n": -1}, {**RECORDS[4], "text": "An oat mill."}, RECORDS[650]])
    ids = [point.id for point in source.scroll([])]
    copy.update(ids[:1], [{}], {"": np.eye(64, dtype=np.float32)[:1]})
    source.delete(ids[1:3])

    report = copy_collection(source, copy)
    assert report.extra == 2
    assert 3 <= report.copied <= 4  # what was changed may be what was deleted
    assert report.deleted == 0
    assert copy_collection(source, copy, delete=True).deleted == 2
    assert copy.count() == source.count()
    assert verify(copy, embedder, sample=600).passed


@pytest.mark.parametrize("there", ["rest", "grpc"])
def test_a_copy_that_was_stopped_continues(place, embedder, there):
    source, copy = place("embedded"), place(there)
    QdrantLoader(source, "docs", embedder).load(RECORDS)
    reports = []

    def stop(report):
        reports.append(report)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_collection(source, copy, progress=stop)
    before = copy.count()
    assert 0 < before < 700
    report = copy_collection(source, copy)
    assert (report.copied, report.unchanged) == (700 - before, before)


def test_requests_are_retried_and_divided(embedder):
    with running_server() as server, closing(server.client()) as client:
        source = as_target(QdrantClient(":memory:"), "docs")
        QdrantLoader(source, "docs", embedder).load(RECORDS[:200])
        target = as_target(client, "docs")
        server.request_bytes["rest"] = 60_000
        server.script = ["429", "500", None, "lost"]
        report = copy_collection(source, target)
        assert report.copied == target.count() == 200
        assert report.retries == 3


def test_metadata_of_other_programs_is_copied(place, embedder):
    source, copy = place("rest"), place("edge")
    QdrantLoader(source, "docs", embedder).load(RECORDS[:3])
    source.describe({"team": {"name": "millers"}})
    copy_collection(source, copy)
    assert copy.state().metadata["team"] == {"name": "millers"}
    assert copy.state().identity not in ("", source.state().identity)


def test_what_the_settings_do_not_name_is_reported(place, embedder):
    source, copy = place("rest"), place("embedded")
    QdrantLoader(source, "docs", embedder, preset=MRL, settings={"quantization": "scalar"}).load(
        RECORDS[:3]
    )
    source.client.create_payload_index("docs", "metadata.f", models.PayloadSchemaType.FLOAT)
    report = copy_collection(source, copy)
    assert report.notes == (
        "the payload index of `metadata.f` (float) is not in the settings: not copied",
        "the server's settings of optimizers, write-ahead log, strict mode, shards and replicas "
        "are not copied",
    )
    assert report.ignored == ("quantization", "payload indexes")


@pytest.mark.parametrize("there", PLACES)
def test_points_of_other_programs_are_copied(place, embedder, there):
    source, copy = place("rest"), place(there)
    QdrantLoader(source, "docs", embedder).load(RECORDS[:3])
    foreign = models.PointStruct(id=7, vector=[1.0] * 64, payload={"text": "a stone"})
    source.client.upsert("docs", [foreign], wait=True)
    assert copy_collection(source, copy).copied == 4
    assert copy_collection(source, copy).unchanged == 4
    assert [point.payload for point in copy.scroll(None) if point.id == "7"] == [
        {"text": "a stone"}
    ]


def test_another_collection_is_not_overwritten(place, embedder, make_embedder):
    source, other = place("embedded"), place("rest")
    QdrantLoader(source, "docs", embedder).load(RECORDS[:3])
    QdrantLoader(other, "docs", make_embedder(model="letters", revision="2")).load(RECORDS[:3])
    with pytest.raises(CollectionError, match="letters"):
        copy_collection(source, other)
    unlike = place("edge", "others")
    QdrantLoader(unlike, "others", embedder).load(RECORDS[:3])
    with pytest.raises(CollectionError, match="not a copy of 'docs'"):
        copy_collection(source, unlike)
    with pytest.raises(ConfigError, match="both collection 'docs'"):
        copy_collection(source, source)


def test_a_missing_source_is_named(place):
    with pytest.raises(TargetError, match="docs"):
        copy_collection(place("embedded"), place("edge"))

"""Qdrant Edge: what it does as the other targets do, and what is special about it."""

import json
import os
import subprocess
import sys
import uuid
from datetime import datetime

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from quernstone.errors import ConfigError
from quernstone_qdrant import CollectionError, CollectionNotFoundError, QdrantLoader, TargetError
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.settings import PREFIX, PRESETS, CollectionSettings
from quernstone_qdrant.targets import SearchRequest, as_target
from quernstone_qdrant.targets.edge import EdgeTarget
from quernstone_qdrant.targets.edge_files import EDGE_RESERVE, edge_collections, size_on_disk
from quernstone_qdrant.targets.requests import Bm25Stage, PrefixStage

F = models.FieldCondition


@pytest.fixture
def target(tmp_path):
    target = EdgeTarget(tmp_path / "edge", "docs")
    yield target
    target.close()


RECORDS = [
    {
        "id": f"d{n}",
        "text": f"{['the quick brown fox', 'lazy dogs', 'a fox and two dogs'][n % 3]} number {n}",
        "n": n,
        "half": n / 2,
        "even": n % 2 == 0,
        "tags": ["red", "green"][: n % 3],
        "day": f"2026-01-{n + 1:02}T12:00:00Z",
        "parts": [{"size": n, "kind": "a"}, {"size": 9 - n, "kind": "b"}],
        "place": {"lon": float(n), "lat": 50.0},
        "gone": None,
    }
    for n in range(9)
]


@pytest.fixture
def both(target, embedder):
    """The same points in the embedded client and in Edge."""
    embedded = as_target(QdrantClient(":memory:"), "docs")
    for one in (embedded, target):
        assert QdrantLoader(one, "docs", embedder).load(RECORDS).embedded == 9
    yield embedded, target
    embedded.close()


def point_of(n):
    namespace = uuid.uuid5(uuid.UUID("6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21"), "docs")
    return str(uuid.uuid5(namespace, f"d{n}:0"))


@pytest.mark.parametrize(
    "where",
    [
        models.Filter(),
        models.Filter(must=F(key="metadata.n", match=models.MatchValue(value=4))),
        models.Filter(must=F(key="metadata.even", match=models.MatchValue(value=True))),
        models.Filter(must=[F(key="metadata.even", match=models.MatchValue(value=False))]),
        models.Filter(must=[F(key="metadata.tags", match=models.MatchValue(value="green"))]),
        models.Filter(must=[F(key="metadata.n", match=models.MatchAny(any=[1, 2, 30]))]),
        models.Filter(must=[F(key="quernstone.key", match=models.MatchAny(any=["d1", "d7"]))]),
        models.Filter(must=[F(key="metadata.n", match=models.MatchExcept(**{"except": [1, 2]}))]),
        models.Filter(must=[F(key="page_content", match=models.MatchText(text="fox"))]),
        models.Filter(
            must=[F(key="page_content", match=models.MatchTextAny(text_any="quick lazy"))]
        ),
        models.Filter(must=[F(key="page_content", match=models.MatchPhrase(phrase="brown fox"))]),
        models.Filter(must=[F(key="metadata.n", range=models.Range(gt=2, lte=6))]),
        models.Filter(must=[F(key="metadata.half", range=models.Range(gte=0.5, lt=2.5))]),
        models.Filter(
            must=[F(key="metadata.day", range=models.DatetimeRange(gte=datetime(2026, 1, 4)))]
        ),
        models.Filter(
            must=[
                models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.tags")),
                models.IsNullCondition(is_null=models.PayloadField(key="metadata.gone")),
            ]
        ),
        models.Filter(must=[F(key="metadata.tags", is_empty=True)]),
        models.Filter(must=[F(key="metadata.tags", is_empty=False)]),
        models.Filter(must=[F(key="metadata.gone", is_null=True)]),
        models.Filter(must=[models.HasIdCondition(has_id=[point_of(1), uuid.UUID(point_of(5))])]),
        models.Filter(must=[F(key="metadata.tags", values_count=models.ValuesCount(gte=2))]),
        models.Filter(must=[F(key="metadata.parts[].size", match=models.MatchValue(value=8))]),
        models.Filter(
            must=[
                models.NestedCondition(
                    nested=models.Nested(
                        key="metadata.parts",
                        filter=models.Filter(
                            must=[
                                F(key="size", match=models.MatchValue(value=3)),
                                F(key="kind", match=models.MatchValue(value="b")),
                            ]
                        ),
                    )
                )
            ]
        ),
        models.Filter(
            must=[
                F(
                    key="metadata.place",
                    geo_radius=models.GeoRadius(
                        center=models.GeoPoint(lon=2, lat=50), radius=80_000
                    ),
                )
            ]
        ),
        models.Filter(
            must=[
                F(
                    key="metadata.place",
                    geo_bounding_box=models.GeoBoundingBox(
                        top_left=models.GeoPoint(lon=0.5, lat=51),
                        bottom_right=models.GeoPoint(lon=3.5, lat=49),
                    ),
                )
            ]
        ),
        models.Filter(
            must=[
                F(
                    key="metadata.place",
                    geo_polygon=models.GeoPolygon(
                        exterior=models.GeoLineString(
                            points=[
                                models.GeoPoint(lon=x, lat=y)
                                for x, y in [(0.5, 49), (4.5, 49), (4.5, 51), (0.5, 51), (0.5, 49)]
                            ]
                        )
                    ),
                )
            ]
        ),
        models.Filter(
            should=[
                F(key="metadata.n", match=models.MatchValue(value=1)),
                models.Filter(must_not=[F(key="metadata.n", range=models.Range(lt=8))]),
            ],
            must_not=[F(key="metadata.tags", match=models.MatchValue(value="blue"))],
        ),
        models.Filter(
            min_should=models.MinShould(
                conditions=[
                    F(key="metadata.even", match=models.MatchValue(value=True)),
                    F(key="metadata.n", range=models.Range(gt=3)),
                    F(key="metadata.tags", match=models.MatchValue(value="red")),
                ],
                min_count=2,
            )
        ),
    ],
    ids=lambda where: where.model_dump_json(exclude_none=True)[:70],
)
def test_a_filter_finds_what_it_finds_in_the_embedded_client(both, where):
    embedded, target = both
    expected = [point.id for point in embedded.scroll([], where=where)]
    assert [point.id for point in target.scroll([], where=where)] == expected
    request = SearchRequest(vector=np.eye(64, dtype=np.float32)[0], limit=20, where=where)
    assert {point.id for point in target.query(request)} == set(expected)


def test_filters_tell_points_apart(both):
    """The parametrised test above would pass if every filter found everything."""
    where = models.Filter(must=[F(key="metadata.n", range=models.Range(gt=2, lte=6))])
    found = {point.payload["metadata"]["n"] for point in both[1].scroll(["metadata"], where=where)}
    assert found == {3, 4, 5, 6}


def test_a_condition_that_edge_lacks_is_refused_by_name(both):
    where = models.Filter(must=[models.SliceCondition(slice=models.Slice(index=0, total=2))])
    with pytest.raises(ConfigError, match="does not support 'slice'"):
        list(both[1].scroll([], where=where))


def test_points_come_back_as_they_were_written(both):
    embedded, target = both
    fields = ["page_content", "metadata", "quernstone", "_node_content"]
    expected = list(embedded.scroll(fields, with_vectors=True, batch=4))
    found = list(target.scroll(fields, with_vectors=True, batch=4))
    assert [(p.id, p.payload) for p in found] == [(p.id, p.payload) for p in expected]
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_allclose(here.vectors[""], there.vectors[""], atol=1e-6)
    assert target.payloads([point_of(3), str(uuid.uuid4())], ["metadata.n"]) == {
        point_of(3): {"metadata": {"n": 3}}
    }
    ids = [point.id for point in expected]
    assert [point.id for point in target.scroll([], start=ids[5])] == ids[5:]
    assert target.count() == 9
    target.delete([point_of(3), str(uuid.uuid4())])
    assert target.count() == 8


def test_points_of_another_program_may_have_numbers(target, embedder):
    import qdrant_edge as edge

    target.create(CollectionSettings(), 64, {})
    points = [edge.Point(n, {"": [1.0] * 64}, {}) for n in range(9)]
    target._shard().update(edge.UpdateOperation.upsert_points(points))
    assert [point.id for point in target.scroll([], batch=2, start="5")] == ["5", "6", "7", "8"]


def test_two_stages_put_hits_in_the_order_of_the_full_vectors(target, embedder):
    settings = CollectionSettings(vector="dense", prefix=32, quantization="scalar", on_disk=True)
    QdrantLoader(target, "docs", embedder, preset=settings).load(RECORDS)
    query = embedder.embed_query("lazy dogs number 4")
    request = SearchRequest(
        vector=query,
        limit=3,
        using="dense",
        prefix=PrefixStage(using=PREFIX, vector=query[:32], limit=9),
        with_vector=True,
    )
    hits = target.query(request)
    assert hits[0].id == point_of(4)
    for hit in hits:
        assert hit.score == pytest.approx(float(hit.vector @ query), abs=1e-5)


@pytest.mark.parametrize("bm25", ["sparse", "text"])
def test_hybrid_ranks_are_fused(target, embedder, bm25):
    settings = CollectionSettings(bm25=bm25)
    QdrantLoader(target, "docs", embedder, preset=settings).load(RECORDS)
    words = Bm25Stage(
        using="bm25" if bm25 == "sparse" else "page_content",
        sparse=bm25 == "sparse",
        query=Bm25Text("foxes number 3", "english", 2),
    )
    vector = embedder.embed_query("the quick brown fox number 3")
    request = SearchRequest(vector=vector, limit=9, bm25=words, depth=9, rrf_k=60)
    hits = target.query(request)
    assert hits[0].id == point_of(3)
    assert hits[0].score == pytest.approx(2 / 60)  # first in both orders


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_indexed_and_finds(target, embedder, preset):
    settings = PRESETS[preset]
    settings = settings.resolved(embedder.dimensions)
    target.create(settings, embedder.dimensions, {"a": 1})
    target.create_indexes(settings)
    assert target.state().vectors.keys() == settings.vectors(embedder.dimensions).keys()
    target.wait_for_index(60)
    assert target.state().metadata == {"a": 1}


def test_metadata_is_merged(target, embedder):
    target.create(CollectionSettings(), 64, {"a": 1, "b": {"c": 2}})
    target.describe({"b": {"d": 3}})
    target.close()
    assert target.state().metadata == {"a": 1, "b": {"d": 3}}


def test_collections_share_a_folder_whatever_they_are_called(tmp_path, embedder):
    names = ["docs", "a/../b", "..", "Größe: 5"]
    for name in names:
        target = EdgeTarget(tmp_path / "edge", name)
        assert not target.exists()
        QdrantLoader(target, name, embedder).load([{"id": "x", "text": name}])
        target.close()
    assert edge_collections(tmp_path / "edge") == sorted(names)
    assert [entry.name for entry in tmp_path.iterdir()] == ["edge"]
    missing = EdgeTarget(tmp_path / "edge", "none")
    with pytest.raises(CollectionNotFoundError, match=r"available: '\.\.', 'Größe: 5'"):
        missing.state()


def test_what_edge_cannot_do_is_an_error(target, embedder):
    assert target.ignored(CollectionSettings(shards=3)) == ["shards"]
    target.create(CollectionSettings(), 64, {})
    with pytest.raises(CollectionError, match="it exists"):
        target.create(CollectionSettings(), 64, {})
    wrong = SearchRequest(vector=np.ones(3, np.float32), limit=1)
    with pytest.raises(TargetError, match=r"failed at searching .*expected dim: 64, got 3"):
        target.query(wrong)
    with pytest.raises(ConfigError, match="name is empty"):
        EdgeTarget("x", "")


HOLD = """
import sys
from quernstone_qdrant.targets.edge import EdgeTarget
target = EdgeTarget(sys.argv[1], "docs")
target.state()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_has_it(target, tmp_path, monkeypatch):
    monkeypatch.setattr("quernstone_qdrant.targets.edge_shard._LOCK_SECONDS", 0.2)
    target.create(CollectionSettings(), 64, {})
    target.close()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "edge")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(TargetError, match="in use by another process"):
            target.state()
        other.communicate()
    assert target.state().points == 0


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "a shard"])
def test_a_creation_that_was_killed_is_done_again(target, embedder, left):
    home = target.path / "docs"
    if left == "an empty folder":
        (home / "shard").mkdir(parents=True)
    if left == "a shard":
        target.create(CollectionSettings(), 8, {})
        target.close()
        (home / "collection.json").unlink()
    assert not target.exists()
    assert QdrantLoader(target, "docs", embedder).load(RECORDS).embedded == 9
    assert json.loads((home / "collection.json").read_bytes())["dimensions"] == 64


def test_an_index_that_takes_too_long_is_an_error_and_loses_nothing(target, embedder):
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    with pytest.raises(TargetError, match=r"not indexed after 0\.01 s"):
        target.wait_for_index(0.01)
    assert target.count() == 9


def test_a_full_disk_is_an_error_before_it_is_a_signal(tmp_path, embedder, monkeypatch):
    target = EdgeTarget(str(tmp_path), "docs")
    loader = QdrantLoader(target, "docs", embedder, batch_size=1)
    assert loader.load([{"id": "a", "text": "Rain falls."}]).embedded == 1
    real = os.statvfs

    def full(path):
        values = list(real(path))
        values[4] = (100 << 20) // values[1]  # f_bavail, in blocks of f_frsize
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(TargetError, match=r"nearly full: 105 MB are free, and Edge needs 134 MB"):
        loader.load([{"id": "b", "text": "Snow falls."}])
    assert target.count() == 1
    monkeypatch.setattr(os, "statvfs", real)
    assert loader.load([{"id": "b", "text": "Snow falls."}]).embedded == 1
    target.close()


def test_the_index_needs_room_for_the_segments_once_more(tmp_path, embedder, monkeypatch):
    target = EdgeTarget(str(tmp_path), "docs")
    loader = QdrantLoader(target, "docs", embedder)
    records = [{"id": str(number), "text": f"Mill {number} grinds."} for number in range(9)]
    assert loader.load(records[:8]).embedded == 8
    real, free = os.statvfs, EDGE_RESERVE + size_on_disk(tmp_path) // 4

    def small(path):
        values = list(real(path))
        values[4] = free // values[1]  # f_bavail, in blocks of f_frsize
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", small)
    with pytest.raises(TargetError, match=r"nearly full: .* to build the index; free some space"):
        loader.load(records)
    assert (loader.report.embedded, target.count()) == (1, 9)
    free *= 2
    again = loader.load(records)
    assert (again.embedded, again.skipped, again.points) == (0, 9, 9)
    target.close()

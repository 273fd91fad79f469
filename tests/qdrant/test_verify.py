"""`verify` accepts an intact collection and finds every kind of change."""

import numpy as np
import pytest
from qdrant_client import models

from quernstone_qdrant import CollectionError, ProvenanceError, QdrantLoader
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.targets import as_target
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
        (
            {"page_content": "another text"},
            "its text, metadata or source differs from what was loaded",
        ),
        ({"metadata": {"n": 8}}, "its text, metadata or source differs from what was loaded"),
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

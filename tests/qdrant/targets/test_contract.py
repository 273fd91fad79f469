"""What holds wherever the points are: embedded, Edge, a server by REST and by gRPC.

The server is the one at QDRANT_URL, or else the model of one.
"""

import uuid

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from quernstone_qdrant import CollectionNotFoundError, QdrantLoader, QdrantSearcher
from quernstone_qdrant.targets import as_target, connect
from quernstone_qdrant.verify import verify

LONG = " ".join(f"Sentence number {n} is about mills." for n in range(40))
RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill.", "year": 1200, "tags": ["a", "b"]},
    {"id": "rain", "text": "Rain falls on the roof – „Regen“.", "year": 1300, "ratio": 0.1},
    {"id": "long", "text": LONG, "nested": {"ok": True, "none": None}, "big": 2**53 + 1},
]
SETTINGS = {"chunk_size": 100, "chunk_overlap": 0, "batch_size": 8}
PLACES = ["memory", "path", "edge", "rest", "grpc"]


@pytest.fixture
def target(request, tmp_path, open_server):
    """A collection that does not exist yet, in each place."""
    place, name = request.param, f"quernstone-test-{uuid.uuid4().hex[:8]}"
    if place == "edge":
        from quernstone_qdrant import EdgeTarget

        target = EdgeTarget(str(tmp_path / "edge"), name)
        yield target
        target.close()
    elif place in ("rest", "grpc"):
        client = open_server(place)
        yield as_target(client, name)
        client.delete_collection(name)
    else:
        client = QdrantClient(":memory:") if place == "memory" else connect(path=str(tmp_path))
        yield as_target(client, name)
        client.close()


everywhere = pytest.mark.parametrize("target", PLACES, indirect=True)


def everything(target):
    points = target.scroll(None, with_vectors=True, batch=7)
    return {point.id: (point.payload, point.vectors[""]) for point in points}


@everywhere
def test_load_repeat_update_shrink_and_prune(target, embedder):
    loader = QdrantLoader(target, target.collection, embedder, **SETTINGS)
    first = loader.load(RECORDS)
    assert first.embedded == first.chunks == target.count() > 10
    before = everything(target)
    second = loader.load(RECORDS)
    assert (second.embedded, second.skipped) == (0, first.chunks)

    edited = [{**RECORDS[0], "year": 1201}, RECORDS[1], {**RECORDS[2], "text": LONG[:300]}]
    third = loader.load(edited)
    assert third.embedded == 2  # the edited one, and the last chunk before the cut
    assert third.removed == first.chunks - target.count() > 5
    fourth = loader.load(edited[1:], prune=True)
    assert (fourth.pruned, fourth.embedded) == (1, 0)
    assert loader.load(RECORDS).embedded == first.chunks - fourth.chunks + 1
    after = everything(target)
    assert {i: payload for i, (payload, _) in after.items()} == {
        i: payload for i, (payload, _) in before.items()
    }


@everywhere
def test_what_is_read_back_is_what_was_written(target, embedder):
    QdrantLoader(target, target.collection, embedder, **SETTINGS).load(RECORDS)
    embedded = QdrantClient(":memory:")
    QdrantLoader(embedded, target.collection, embedder, **SETTINGS).load(RECORDS)
    wanted = everything(as_target(embedded, target.collection))
    found = everything(target)
    assert {i: payload for i, (payload, _) in found.items()} == {
        i: payload for i, (payload, _) in wanted.items()
    }
    for point, (_, vector) in wanted.items():
        np.testing.assert_allclose(found[point][1], vector, atol=1e-6)
    assert list(found) == sorted(found, key=lambda i: uuid.UUID(i).int)
    report = verify(target, embedder, sample=8)
    assert report.passed, report.problems


@everywhere
def test_a_missing_collection_and_its_metadata(target, embedder):
    assert not target.exists()
    with pytest.raises(CollectionNotFoundError, match=target.collection):
        target.state()
    made = QdrantLoader(target, target.collection, embedder).provenance
    assert target.exists()
    state = target.state()
    assert state.metadata["quernstone"]["model"] == made.model == "words"
    assert (state.vectors[""].size, state.vectors[""].distance) == (64, "Cosine")
    target.describe({"other": {"a": 1}})
    assert target.state().metadata["other"] == {"a": 1}
    assert target.state().metadata["quernstone"]["model"] == "words"


@everywhere
def test_requests_about_points_that_are_not_there(target, embedder):
    QdrantLoader(target, target.collection, embedder).load(RECORDS[:1])
    (known,) = everything(target)
    unknown = str(uuid.uuid4())
    assert list(target.payloads([known, unknown], ["quernstone"])) == [known]
    assert list(target.payloads([known], ["quernstone"])[known]) == ["quernstone"]
    target.delete([unknown])
    target.delete([known, known])
    assert target.count() == 0
    assert everything(target) == {}


@everywhere
def test_scrolling_can_begin_anywhere(target, embedder):
    QdrantLoader(target, target.collection, embedder, **SETTINGS).load(RECORDS)
    ids = [point.id for point in target.scroll([], batch=3)]
    assert [point.id for point in target.scroll([], batch=3, start=ids[5])] == ids[5:]


@everywhere
def test_search(target, embedder, reranker):
    QdrantLoader(target, target.collection, embedder, **SETTINGS).load(RECORDS)
    searcher = QdrantSearcher(target, target.collection, embedder)
    (hit,) = searcher.search("stone hand mill", limit=1)
    assert (hit.key, hit.text, hit.metadata["year"]) == ("mill", RECORDS[0]["text"], 1200)
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=1300))]
    )
    assert [hit.key for hit in searcher.search("mill", query_filter=only)] == ["rain"]
    reranked = QdrantSearcher(target, target.collection, embedder, reranker).search("mill", 3)
    assert [hit.rerank_score for hit in reranked] == sorted(
        (hit.rerank_score for hit in reranked), reverse=True
    )


@everywhere
def test_a_dropped_collection_is_gone_and_can_be_created_again(target, embedder):
    loader = QdrantLoader(target, target.collection, embedder, **SETTINGS)
    loader.load(RECORDS)
    target.drop()
    assert not target.exists()
    again = QdrantLoader(target, target.collection, embedder, **SETTINGS)
    assert again.load(RECORDS[:1]).embedded == target.count() == 1

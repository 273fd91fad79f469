"""Chunks that are missing inside a document or at its end."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.checks.chunks import ChunkSequences
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.targets import StoredPoint, as_target
from quernstone_qdrant.verify import verify

NAMESPACE = UUID(int=7)
CHUNKS = {"chunk_size": 100, "chunk_overlap": 0}


def chunk(key, number, last):
    own = {"key": key, "chunk": number} | ({} if last is None else {"last": last})
    return StoredPoint(id=point_id(NAMESPACE, key, number), payload={"quernstone": own})


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), max_size=4),
    st.randoms(),
    st.booleans(),
)
def test_every_missing_chunk_is_found_once(documents, random, old):
    """Each document is a list of chunks that are stored or not."""
    points, gaps, cuts = [], [], []
    for name, kept in enumerate(documents):
        stored = [number for number, keep in enumerate(kept) if keep]
        is_last = None if old else len(kept) - 1
        points += [chunk(str(name), n, None if is_last is None else n == is_last) for n in stored]
        starts = [-1, *stored][: len(stored)]
        gaps += [
            (str(name), range(a + 1, b)) for a, b in zip(starts, stored, strict=True) if b > a + 1
        ]
        if stored and stored[-1] < len(kept) - 1 and not old:
            cuts.append((str(name), stored[-1]))
    random.shuffle(points)
    with ChunkSequences(NAMESPACE) as sequences:
        for point in points:
            own = point.payload["quernstone"]
            sequences.add(own["key"], own["chunk"], own.get("last"))
        found = list(sequences.gaps(lambda: iter(points)))
        assert sorted(found, key=str) == sorted(gaps, key=str)
        assert sorted(sequences.cut(lambda: iter(points))) == sorted(cuts)
        assert sequences.complete == (not gaps and not cuts)
        assert sequences.endless == (len(points) if old else 0)


def text(sentences):
    return " ".join(f"Sentence {n} about mills and their many stones." for n in range(sentences))


@pytest.fixture(params=["embedded", "rest", "grpc"])
def place(request, open_server):
    """A client, embedded or of a server."""
    return (
        request.getfixturevalue("client")
        if request.param == "embedded"
        else open_server(request.param)
    )


def test_a_document_that_lost_its_last_chunks_is_found(place, embedder):
    name = "quernstone-test-chunks"
    loader = QdrantLoader(place, name, embedder, **CHUNKS)
    records = [{"id": key, "text": text(20)} for key in "abc"]
    number = loader.load(records).chunks // 3
    lost = [point_id(loader.provenance.namespace, "b", n) for n in range(number - 3, number)]
    place.delete(name, lost)
    report = verify(as_target(place, name))
    expected = f"record 'b': its last chunks are missing, after chunk {number - 4}"
    assert (report.problems, report.endless) == ((expected,), 0)
    assert QdrantLoader(place, name, embedder, **CHUNKS).load(records).embedded == 3
    assert verify(as_target(place, name)).passed
    place.delete_collection(name)


@pytest.mark.parametrize("sizes", [(20, 9), (9, 20), (20, 1), (1, 20), (20, 0)])
def test_documents_that_grow_and_shrink_stay_complete(client, embedder, sizes):
    loaded = []
    for size in sizes:
        loader = QdrantLoader(client, "docs", embedder, **CHUNKS)
        loaded.append(loader.load([{"id": "a", "text": text(size)}]))
        report = verify(as_target(client, "docs"))
        assert (report.problems, report.points) == ((), loaded[-1].chunks)
    again = QdrantLoader(client, "docs", embedder, **CHUNKS)
    assert again.load([{"id": "a", "text": text(sizes[-1])}]).embedded == 0


def test_a_chunk_that_becomes_the_last_one_is_written_again(client, embedder):
    """Its text and its hash are the same."""
    lines = [f"Line {n} is long enough to be a chunk of its own, as it is." for n in range(5)]
    loader = QdrantLoader(client, "docs", embedder, chunk_size=60, chunk_overlap=0)
    assert loader.load([{"id": "a", "text": "\n\n".join(lines)}]).chunks == 5
    report = loader.load([{"id": "a", "text": "\n\n".join(lines[:3])}])
    assert (report.embedded, report.removed) == (1, 2)
    assert verify(as_target(client, "docs")).passed


def test_points_of_older_versions_are_counted_and_not_loaded_again(client, embedder):
    records = [{"id": key, "text": text(20)} for key in "ab"]
    loader = QdrantLoader(client, "docs", embedder, **CHUNKS)
    chunks = loader.load(records).chunks
    points, _ = client.scroll("docs", limit=100)
    for point in points:
        own = {name: part for name, part in point.payload["quernstone"].items() if name != "last"}
        client.set_payload("docs", {"quernstone": own}, [point.id])
    report = verify(as_target(client, "docs"))
    assert (report.passed, report.endless) == (True, chunks)
    assert QdrantLoader(client, "docs", embedder, **CHUNKS).load(records).embedded == 0

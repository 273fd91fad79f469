"""Writes that are refused because of a few points."""

import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant import QdrantLoader, TargetError, WriteError, read_paths
from quernstone_qdrant.errors import RefusedError
from quernstone_qdrant.targets import ClientTarget

SETTINGS = {"chunk_size": 20, "chunk_overlap": 0}


def records(count, *bad):
    return [
        {"id": f"d{n}", "text": "a mill. " * 3, "refused": True} if n in bad
        # only the second chunk of a document
        else {"id": f"d{n}", "text": f"a mill {n}"}
        for n in range(count)
    ]  # fmt: skip


class Picky(ClientTarget):
    """Refuses the second chunk of the documents with a field `refused`."""

    everything = False

    def upsert(self, ids, payloads, vectors):
        self.requests = [*getattr(self, "requests", []), len(ids)]
        for payload in payloads:
            data = payload["metadata"]
            if self.everything or ("refused" in data and data["chunk"] == 1):
                raise RefusedError("Qdrant failed: status 400: bad request")
        super().upsert(ids, payloads, vectors)


@pytest.fixture
def target():
    target = Picky(QdrantClient(":memory:"), "docs")
    yield target
    target.close()


def keys(target):
    return [(p.payload["quernstone"]["key"], p.payload["chunk"]) for p in target.scroll(None)]


def test_refused_points_are_named_counted_and_kept(target, embedder, tmp_path):
    path, errors = tmp_path / "left-out.jsonl", []
    loader = QdrantLoader(
        target, "docs", embedder, dead_letter=path, on_error=errors.append, **SETTINGS
    )
    report = loader.load(records(100, 7, 8, 99))
    assert (report.failed, report.embedded) == (3, report.chunks - 3)
    assert target.count() == report.embedded
    assert [str(error) for error in errors] == [
        f"record 'd{n}': chunk 1 is refused: Qdrant failed: status 400: bad request; the request "
        f"holds only chunk 1 of record 'd{n}'"
        for n in (7, 8, 99)
    ]
    assert len(target.requests) < 50
    assert [record.key for record in read_paths(path)] == ["d7", "d8", "d99"]
    assert loader.load(records(100)).failed == 0  # cured
    assert target.count() == 100


def test_without_skipping_the_first_refused_point_ends_the_load(target, embedder):
    loader = QdrantLoader(target, "docs", embedder, **SETTINGS)
    with pytest.raises(WriteError, match=r"only chunk 1 of record 'd7'") as caught:
        loader.load(records(20, 7))
    assert target.count() == 8  # seven documents, and a chunk of the eighth
    assert len(caught.value.ids) == len(embedder.embedded) - 8


@pytest.mark.parametrize("skip_errors", [True, False])
def test_a_refusal_of_every_point_is_no_fault_of_the_records(target, embedder, skip_errors):
    loader = QdrantLoader(target, "docs", embedder, skip_errors=skip_errors, **SETTINGS)
    target.everything = True
    with pytest.raises(WriteError, match="status 400"):
        loader.load(records(20))
    assert (loader.report.failed, loader.report.embedded) == (0, 0)


def test_another_error_in_a_part_ends_the_load(target, embedder, monkeypatch):
    loader = QdrantLoader(target, "docs", embedder, skip_errors=True, **SETTINGS)
    upsert = target.upsert

    def failing(ids, payloads, vectors):
        if len(ids) < 10:
            raise TargetError("status 403")
        upsert(ids, payloads, vectors)

    monkeypatch.setattr(target, "upsert", failing)
    with pytest.raises(WriteError, match="status 403"):
        loader.load(records(20, 7))

"""Collections that version 0.1.0 loaded are recognized: nothing is embedded or written again.

The fixtures and the records in them come from `fixtures/make_collections.py`.
"""

import json
from contextlib import closing
from copy import deepcopy

import pytest
from qdrant_client import QdrantClient
from tests.qdrant.fixtures.make_collections import (
    FACTS,
    KINDS,
    TARGETS,
    archive_path,
    load_all,
    make_records,
    open_embedder,
    open_target,
    read_facts,
    read_model_facts,
    unpack,
    write_handbook,
)

from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.documents.bm25 import Bm25Text, encode_document
from quernstone_qdrant.settings import BM25
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDED = json.loads(FACTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny():
    with open_embedder() as embedder:
        yield embedder


@pytest.fixture
def handbook(tmp_path):
    return write_handbook(tmp_path)


@pytest.fixture
def unpacked(tmp_path):
    """Unpack a fixture and open its collection."""
    opened = []

    def unpack_and_open(target, kind):
        folder = tmp_path / f"{target}-{kind}"
        unpack(archive_path(target, kind), folder)
        opened.append(open_target(target, folder, kind))
        return opened[-1]

    yield unpack_and_open
    for target in opened:
        target.close()


def test_the_model_has_its_recorded_fingerprint(tiny):
    assert read_model_facts(tiny) == RECORDED["model"]


def test_every_kind_is_recorded():
    assert set(RECORDED["collections"]) == set(KINDS)


@pytest.mark.parametrize("arguments", ["as before", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_second_load_writes_nothing(unpacked, tiny, handbook, monkeypatch, name, kind, arguments):
    target, recorded = unpacked(name, kind), RECORDED["collections"][kind]
    loader = QdrantLoader(target, kind, tiny, **(KINDS[kind] if arguments == "as before" else {}))
    assert read_facts(target, loader) == recorded

    for method in ("upsert", "delete", "describe"):
        monkeypatch.setattr(target, method, None)  # a call fails
    inputs = tiny.usage.inputs
    reports = load_all(loader, handbook, prune=True)
    assert tiny.usage.inputs == inputs
    for report in reports:
        assert (report.embedded, report.removed, report.pruned, report.failed) == (0, 0, 0, 0)
        assert report.skipped == report.chunks
    assert sum(report.chunks for report in reports) == len(recorded["points"])
    assert read_facts(target, loader) == recorded


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_collection_has_the_recorded_points(tiny, handbook, kind):
    """With the old rule for LlamaIndex nodes: the new one excludes keys of the loader in them."""
    with closing(as_target(QdrantClient(":memory:"), kind)) as target:
        loader = QdrantLoader(target, kind, tiny, settings={"node_rule": 1}, **KINDS[kind])
        load_all(loader, handbook)
        found, recorded = read_facts(target, loader), RECORDED["collections"][kind]
    assert found["points"] == recorded["points"]
    assert found["fingerprint"] == recorded["fingerprint"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_rule_keeps_ids_and_hashes_of_records(tiny, handbook, kind):
    with closing(as_target(QdrantClient(":memory:"), kind)) as target:
        loader = QdrantLoader(target, kind, tiny, **KINDS[kind])
        load_all(loader, handbook)
        assert loader.provenance.settings.node_rule == 2
        found, recorded = read_facts(target, loader), deepcopy(RECORDED["collections"][kind])
    for facts in (found, recorded):
        for point in facts["points"].values():
            point.pop("payload", None)
    assert found["points"] == recorded["points"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_it_passes_verification(unpacked, tiny, name, kind):
    verified = verify(unpacked(name, kind), tiny)
    assert verified.passed, verified.problems
    points = len(RECORDED["collections"][kind]["points"])
    assert (verified.points, verified.vectors, verified.foreign) == (points, points, 0)
    assert verified.embedded == 16
    assert verified.least_cosine > 0.999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_it_can_be_searched(unpacked, tiny, name, kind):
    searcher = QdrantSearcher(unpacked(name, kind), kind, tiny)
    for query, key in (("Kollergang", "german"), ("石磨把谷物磨成面粉。", "chinese")):
        hits = searcher.search(query, limit=5)
        assert len(hits) == 5
        assert key in [hit.key for hit in hits]
        assert (hits[0].fused_score is not None) == (kind == "hybrid")
    filtered = searcher.search("sacks", limit=3, query_filter={"month": 4})
    assert [hit.key for hit in filtered] == ["note-4"]


@pytest.mark.parametrize("name", TARGETS)
def test_an_old_collection_keeps_its_bm25_rule(unpacked, tiny, monkeypatch, name):
    target = unpacked(name, "hybrid")
    searcher = QdrantSearcher(target, "hybrid", tiny)
    assert searcher.provenance.settings.bm25_rule == 1
    asked, query = [], target.query
    monkeypatch.setattr(target, "query", lambda request: asked.append(request) or query(request))
    # the whole text is one term of this rule
    assert searcher.search("石磨把谷物磨成面粉", limit=1)[0].key == "chinese"
    assert asked[0].bm25.query == Bm25Text("石磨把谷物磨成面粉", "english", 1)
    loader = QdrantLoader(target, "hybrid", tiny, hybrid=True)
    report = loader.load([{"id": "more", "text": "水磨转动石头。"}])
    assert report.embedded == 1
    if name == "embedded":
        for point in target.client.scroll("hybrid", limit=200, with_vectors=[BM25])[0]:
            stored = point.vector[BM25]
            made = encode_document(Bm25Text(point.payload["page_content"], "english", 1))
            assert dict(zip(stored.indices, stored.values, strict=True)) == pytest.approx(
                dict(zip(made.indices, made.values, strict=True)), rel=1e-6
            )


@pytest.mark.parametrize("name", TARGETS)
def test_an_edited_record_replaces_its_own_points(unpacked, tiny, name):
    """The tests above would pass if a load skipped everything that it finds."""
    target, recorded = unpacked(name, "hybrid"), RECORDED["collections"]["hybrid"]["points"]
    edited = next(record for record in make_records() if record["id"] == "german")
    report = QdrantLoader(target, "hybrid", tiny).load([{**edited, "text": "Ein Mörser."}])
    assert (report.embedded, report.skipped) == (1, 0)
    assert target.count() == len(recorded)
    changed = [
        point.id
        for point in target.scroll(["quernstone"])
        if point.payload["quernstone"]["hash"] != recorded[point.id]["hash"]
    ]
    assert [recorded[point]["key"] for point in changed] == ["german"]

"""Migrations to a second vector of the same collection."""

from dataclasses import replace

import numpy as np
import pytest
from qdrant_client import models
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import (
    CollectionError,
    CollectionReplacedError,
    ProvenanceError,
    QdrantLoader,
    QdrantMigration,
    QdrantSearcher,
    copy_collection,
)
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.repair import repair
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.targets.base import IDENTITY_PREFIX
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"The mill number {n} grinds rye.", "n": n, "f": n / 7}
    for n in range(40)
]


@pytest.fixture
def loaded(place, embedder):
    def load(kind, **arguments):
        target = place(kind)
        QdrantLoader(target, "docs", embedder, **arguments).load(RECORDS)
        return target

    return load


@pytest.fixture
def migrate():
    def start(target, embedder=None, **arguments):
        arguments = {"sample": 10, "in_place": True, "batch_size": 16, **arguments}
        return QdrantMigration(target, "docs", embedder, **arguments)

    return start


def check_vectors(target, embedder, name):
    """Compare the vector of every point with its present text; return the number of points."""
    count = 0
    for point in target.scroll(None, with_vectors=True):
        expected = embedder.embed_documents([point.payload["page_content"]])[0]
        np.testing.assert_allclose(point.vectors[name], expected, atol=1e-5)
        count += 1
    return count


def payloads(target):
    return {point.id: point.payload for point in target.scroll(None)}


@pytest.mark.parametrize(
    ("kind", "vector"),
    [("embedded", ""), ("edge", ""), ("rest", ""), ("grpc", "dense")],
)
def test_a_collection_moves_to_another_model_and_back(
    loaded, migrate, embedder, other, kind, vector
):
    target = loaded(kind, hybrid=True, settings={"vector": vector})
    before, first = payloads(target), target.state().identity
    opened = QdrantSearcher(target, "docs", embedder, embedder_for=lambda _: other)
    strict = QdrantSearcher(target, "docs", embedder)
    writer = QdrantLoader(target, "docs", embedder)
    migration = migrate(target, other)
    report = migration.run()
    assert (report.switched, report.points, report.embedded) == (True, 40, 40)
    assert (report.old, report.new, report.vector) == ("docs", "docs", "other")
    assert report.comparison.least_cosine > 0.999
    assert len(report.comparison.overlaps) == 10
    assert payloads(target) == before
    assert check_vectors(target, other, "other") == 40
    state = target.state()
    assert state.identity != first
    assert Provenance.read(state).hash_salt == "1;64"
    checked = verify(target, other, sample=40)
    assert (checked.passed, checked.points, checked.bm25) == (True, 40, 40), checked.problems

    assert opened.search("mill 7", limit=1)[0].key == "d7"
    assert opened.embedder is other
    with pytest.raises(ProvenanceError, match="'words'"):
        strict.search("mill 7")
    with pytest.raises(CollectionReplacedError, match=r"in place from 'words' .* to 'org/other'"):
        writer.load([{"id": "late", "text": "Too late."}])
    with pytest.raises(ProvenanceError, match=r"'org/other'.*'words'"):
        QdrantLoader(target, "docs", embedder)
    assert repair(target).complete
    other.embedded.clear()
    later = QdrantLoader(target, "docs", other).load(RECORDS, prune=True)
    assert (later.skipped, later.embedded, later.pruned) == (40, 0, 0)

    back = migrate(target).rollback()
    assert (back.switched, back.vector) == (False, "other")
    assert payloads(target) == before
    assert verify(target, embedder, sample=40).passed
    assert opened.search("mill 8", limit=1)[0].key == "d8"
    assert opened.embedder is embedder
    assert QdrantLoader(target, "docs", embedder).load(RECORDS).skipped == 40

    assert migrate(target, other).run().embedded == 0
    done = migrate(target).finish()
    assert done.switched
    stays = not vector and kind in ("rest", "grpc")
    assert any("empty definition" in note for note in done.notes) is stays
    assert set(target.state().vectors) == ({"", "other"} if stays else {"other"})
    assert {*next(target.scroll([], with_vectors=True)).vectors} == {"other"}
    assert verify(target, other, sample=40).passed
    changed = [*RECORDS[1:], {"id": "new", "text": "A new oat mill."}]
    after = QdrantLoader(target, "docs", other).load(changed, prune=True)
    assert (after.skipped, after.embedded, after.pruned) == (39, 1, 1)
    assert QdrantSearcher(target, "docs", other).search("oat", limit=1)[0].key == "new"
    with pytest.raises(ConfigError, match="already"):
        migrate(target, other).run()
    with pytest.raises(CollectionError, match="no migration"):
        migrate(target).finish()


class Interrupted:
    """An embedder that lets a program write while the texts of a batch are embedded."""

    def __init__(self, embedder, write):
        self._embedder, self._write = embedder, write

    def __getattr__(self, name):
        return getattr(self._embedder, name)

    def embed_documents(self, texts):
        vectors = self._embedder.embed_documents(texts)
        write, self._write = self._write, lambda: None
        write()
        return vectors


@pytest.fixture
def writes(embedder):
    """Change, add and delete documents of a collection, by a loader with the old model."""

    def write(target):
        loader = QdrantLoader(target, "docs", embedder)
        loader.load([{**RECORDS[0], "text": "An oat mill."}, {"id": "new", "text": "A new one."}])
        ids = {p.payload[OWN_KEY]["key"]: p.id for p in target.scroll([OWN_KEY])}
        target.delete([ids["d1"], ids["d39"]])

    return write


@pytest.mark.parametrize("kind", ["embedded", "edge", "rest", "grpc"])
def test_a_text_that_is_written_meanwhile_gets_its_own_vector(loaded, migrate, writes, other, kind):
    target = loaded(kind)
    report = migrate(target, Interrupted(other, lambda: writes(target)), batch_size=64).run()
    assert report.switched
    assert report.embedded == 42  # 40, the changed one again, and the new one
    assert report.passes == 4
    assert check_vectors(target, other, "other") == 39
    assert verify(target, other, sample=39).passed


@pytest.mark.parametrize("kind", ["edge"])
def test_without_the_condition_a_text_would_get_a_wrong_vector(
    loaded, migrate, embedder, other, kind, monkeypatch
):
    """The vector of the old text is stored if points are not compared with what was read."""
    target, update = loaded(kind), type(loaded(kind)).update

    def unconditional(self, ids, payloads, vectors, *, hashes=()):
        update(self, ids, payloads, vectors)

    def change():
        # A program that keeps the vectors, so that only the text of the point is another one.
        point = next(p for p in target.scroll(None) if p.payload[OWN_KEY]["key"] == "d0")
        QdrantLoader(copy, "docs", embedder).load([{**RECORDS[0], "text": "An oat mill."}])
        changed = {p.id: p.payload for p in copy.scroll(None)}[point.id]
        target.update([point.id], [changed], {})

    copy = loaded("embedded")
    migrate(target, Interrupted(other, change)).run(switch=False)
    vectors = {p.payload["page_content"]: p for p in target.scroll(None, with_vectors=True)}
    wanted = other.embed_documents(["An oat mill."])[0]
    np.testing.assert_allclose(vectors["An oat mill."].vectors["other"], wanted, atol=1e-5)

    migrate(target).rollback(delete=True)
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    monkeypatch.setattr(type(target), "update", unconditional)
    with pytest.raises(CollectionError, match=r"failed their verification.*cosine"):
        migrate(target, Interrupted(other, change), sample=40).run()


@pytest.mark.parametrize("kind", ["edge", "rest"])
def test_a_rollback_embeds_what_was_written_since(loaded, migrate, embedder, other, kind):
    target = loaded(kind)
    migrate(target, other).run()
    loader = QdrantLoader(target, "docs", other)
    loader.load([{**RECORDS[0], "text": "An oat mill."}, {"id": "new", "text": "A new one."}])
    with pytest.raises(CollectionError, match=r"2 points .*'words'.*--old-model"):
        migrate(target).rollback()
    with pytest.raises(ProvenanceError, match="org/other"):
        migrate(target, old_embedder=other).rollback()
    assert target.state().metadata["quernstone"]["model"] == "org/other"
    back = migrate(target, old_embedder=embedder).rollback(delete=True)
    assert (back.switched, back.embedded) == (False, 2)
    assert check_vectors(target, embedder, "") == 41
    assert verify(target, embedder, sample=41).passed
    state = target.state()
    assert set(state.vectors) == {""}
    assert not state.unused
    assert QdrantLoader(target, "docs", embedder).load(RECORDS[1:]).skipped == 39
    assert migrate(target, other).run().embedded == 41


@pytest.mark.parametrize("kind", ["edge", "rest"])
def test_loads_and_copies_work_meanwhile(loaded, migrate, place, embedder, other, kind):
    target = loaded(kind)
    migrate(target, other).run(switch=False)
    QdrantLoader(target, "docs", embedder).load([{"id": "new", "text": "A new one."}])
    assert verify(target, embedder).passed
    copy = place("embedded", "copy")
    notes = copy_collection(target, copy).notes
    assert notes[0] == "the vectors `other` of a migration in place are not copied"
    assert len(notes) == (2 if kind == "rest" else 1)  # a server has settings of its own
    assert verify(copy, embedder).passed
    with pytest.raises(CollectionError, match=r"under way: continue it with `in_place`"):
        migrate(target, other, in_place=False).run()
    assert migrate(target, other).run().embedded == 1
    another = place("embedded", "another")
    assert copy_collection(target, another).copied == 41
    assert verify(another, other, sample=41).passed
    assert QdrantLoader(another, "another", other).load(RECORDS).skipped == 40


@pytest.mark.parametrize("kind", ["edge", "rest"])
def test_a_collection_can_be_migrated_again(loaded, migrate, make_embedder, other, kind, tmp_path):
    """In place a second time, and then to a second collection."""
    target = loaded(kind)
    migrate(target, other).run()
    migrate(target).finish()
    third = make_embedder(model="third", dimensions=32, revision="3")
    report = migrate(target, third, to="v3").run()
    assert (report.vector, report.embedded) == ("v3", 40)
    migrate(target).finish()
    assert verify(target, third, sample=40).passed
    assert QdrantLoader(target, "docs", third).load(RECORDS).skipped == 40
    if kind == "edge":
        migrate(target, other, in_place=False, state_folder=tmp_path).run()
        assert verify(target, other, sample=40).passed
        assert Provenance.read(target.state()).hash_salt == ""


def test_obstacles_are_named(loaded, migrate, embedder, other, place, tmp_path):
    target = loaded("rest", preset="mrl")
    with pytest.raises(ConfigError, match=r"short vector `prefix`.*leave out `in_place`"):
        migrate(target, other).run()
    target = loaded("rest")
    with pytest.raises(ConfigError, match=r"`layout` is 'universal'.*`bm25` is None"):
        migrate(target, other, layout="plain", hybrid=True).run()
    with pytest.raises(ConfigError, match="taken or reserved"):
        migrate(target, other, to="bm25").run()
    with pytest.raises(ConfigError, match="already"):
        migrate(target, embedder).run()
    with pytest.raises(ConfigError, match="excludes `text_field`, `alias`"):
        QdrantMigration(target, "docs", other, in_place=True, text_field="a", alias="live")
    target.client.create_collection(
        "foreign", models.VectorParams(size=4, distance=models.Distance.COSINE)
    )
    foreign = QdrantMigration(target.client, "foreign", other, in_place=True)
    with pytest.raises(ConfigError, match="another program created it"):
        foreign.run()
    with running_server("1.17.0") as server:
        old = as_target(server.client(), "docs")
        QdrantLoader(old, "docs", embedder).load(RECORDS[:1])
        with pytest.raises(ConfigError, match=r"from Qdrant 1.18 on, but this one is 1.17.0"):
            migrate(old, other).run()
    beside = migrate(target, other, in_place=False, alias="live", state_folder=tmp_path)
    assert "`in_place` (--in-place) is possible" in beside.plan().notes[-1]
    beside.run(switch=False)
    with pytest.raises(ConfigError, match="second collection is under way"):
        migrate(target, other).run()


def test_points_of_other_programs_prevent_the_switch(loaded, migrate, other):
    target = loaded("embedded")
    vector = {"": [1.0] * 64}
    target.client.upsert("docs", [models.PointStruct(id=7, vector=vector, payload={"text": "a"})])
    with pytest.raises(
        CollectionError, match=r"1 points cannot get the new vector, such as point 7"
    ):
        migrate(target, other).run()
    report = migrate(target, other, skip_errors=True).run()
    assert (report.switched, report.left_out) == (True, 1)
    with pytest.raises(CollectionError, match="1 points lack the new vector"):
        migrate(target).finish()
    assert migrate(target, skip_errors=True).finish().switched


def test_damaged_payloads_prevent_the_switch(loaded, migrate, other):
    target = loaded("embedded")
    point = next(target.scroll(None))
    target.client.set_payload("docs", {"page_content": "Edited by hand."}, [point.id])
    with pytest.raises(CollectionError, match=r"1 payloads are damaged.*collection repair"):
        migrate(target, other).run()
    assert repair(target).complete
    assert migrate(target, other).run().switched


@pytest.mark.parametrize("kind", ["edge", "rest"])
def test_a_plan_writes_nothing(loaded, migrate, other, kind):
    target = loaded(kind)
    before = target.state()
    plan = migrate(target, other).plan()
    assert (plan.points, plan.embedded, plan.dimensions) == (40, 40, 48)
    assert "'other' is filled in the same collection, in place" in plan.how
    assert 0 < plan.disk_bytes == plan.memory_bytes  # no payload
    assert target.state() == before


@pytest.mark.parametrize(
    ("kind", "preset"), [("edge", "scalar"), ("edge", "uint8"), ("rest", "scalar")]
)
def test_the_new_vector_is_stored_as_the_old_one(loaded, migrate, embedder, other, kind, preset):
    target = loaded(kind, preset=preset)
    report = migrate(target, other).run()
    vectors = target.state().vectors
    old, new = (replace(vectors[name], size=0) for name in ("", "other"))
    assert old == new
    assert report.comparison.least_cosine > 0.99
    assert QdrantLoader(target, "docs", other).load(RECORDS).skipped == 40
    assert verify(target, other, sample=40).passed
    changed = QdrantLoader(target, "docs", other, settings={"indexes": {"n": "integer"}})
    assert changed.load(RECORDS).skipped == 40
    assert set(target.state().vectors) == {"", "other"}
    migrate(target).finish()
    assert verify(target, other, sample=40).passed


def test_a_loader_that_adopted_the_collection_notices_the_switch(place, migrate, embedder, other):
    """The key of its identity is a second one, besides that in the record."""
    target = place("embedded")
    target.client.create_collection(
        "docs", models.VectorParams(size=64, distance=models.Distance.COSINE)
    )
    loader = QdrantLoader(target, "docs", embedder)
    loader.load(RECORDS)
    assert any(name.startswith(IDENTITY_PREFIX) for name in target.state().metadata)
    migrate(target, other).run()
    with pytest.raises(CollectionReplacedError, match="migrated in place"):
        loader.load([{"id": "late", "text": "Too late."}])
    assert target.count() == 40


def test_settings_that_change_meanwhile_apply_to_the_new_vector(loaded, migrate, embedder, other):
    target = loaded("edge", preset="scalar")
    migrate(target, other).run(switch=False)
    settings = {"quantization": "binary"}
    QdrantLoader(target, "docs", embedder, settings=settings).load(RECORDS)
    assert migrate(target, other).run().switched
    assert target.state().vectors["other"].quantization == "binary"
    assert QdrantLoader(target, "docs", other).load(RECORDS).skipped == 40

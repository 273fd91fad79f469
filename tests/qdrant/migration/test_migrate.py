"""`QdrantMigration` on all kinds of targets: what moves, what is refused, and the way back."""

import asyncio
import zlib
from functools import partial

import numpy as np
import pytest
from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant import (
    CollectionError,
    ProvenanceError,
    QdrantLoader,
    QdrantMigration,
    QdrantSearcher,
    migrate_collection,
)
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.migration.comparison import plot_overlap
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"The mill number {n} grinds rye.", "n": n, "f": n / 7}
    for n in range(120)
]
PLACES = ("embedded", "edge", "rest", "grpc")


@pytest.fixture
def loaded(place, embedder):
    """A loaded collection, by the name that programs use."""

    def load(kind, *, alias=True, **arguments):
        target = place(kind, "docs-1" if alias and kind != "edge" else "docs")
        QdrantLoader(target, target.collection, embedder, **arguments).load(RECORDS)
        if kind == "edge" or not alias:
            return target
        target.take_alias("docs")
        return as_target(target.client, "docs")

    return load


@pytest.fixture
def migrate(tmp_path):
    def start(target, embedder=None, **arguments):
        arguments = {"sample": 10, "state_folder": tmp_path, **arguments}
        return QdrantMigration(target, "docs", embedder, **arguments)

    return start


@pytest.mark.parametrize("kind", PLACES)
def test_a_collection_moves_to_another_model_and_back(loaded, migrate, embedder, other, kind):
    target = loaded(kind, hybrid=True)
    before = QdrantSearcher(target, "docs", embedder)
    report = migrate(target, other).run()
    assert (report.switched, report.points, report.embedded) == (True, 120, 120)
    with pytest.raises(ProvenanceError, match="words"):
        before.search("mill 7")
    assert report.comparison.least_cosine > 0.999
    assert len(report.comparison.overlaps) == 10
    checked = verify(target.pinned(), other, sample=120)
    assert checked.passed, checked.problems
    assert (checked.points, checked.foreign) == (120, 0)
    other.embedded.clear()
    later = QdrantLoader(target, "docs", other).load(RECORDS)
    assert (later.skipped, later.embedded) == (120, 0)
    assert QdrantSearcher(target, "docs", other).search("mill 7", limit=1)[0].key == "d7"

    back = migrate(target).rollback()
    assert (back.switched, back.conflicts) == (False, 0)
    assert verify(target.pinned(), embedder, sample=120).passed
    assert before.search("mill 7", limit=1)[0].key == "d7"

    again = migrate(target, other).run()
    assert (again.switched, again.embedded, again.deleted) == (True, 0, 0)
    done = migrate(target).finish()
    assert not as_target(target.client, done.old).exists() if kind != "edge" else True
    assert target.count() == 120
    with pytest.raises(ConfigError, match="already"):
        migrate(target, other).run()
    with pytest.raises(CollectionError, match="no migration"):
        migrate(target).finish()


@pytest.mark.parametrize("kind", ["embedded", "edge", "rest"])
def test_writes_after_the_switch_are_told_apart(loaded, migrate, embedder, other, kind):
    target = loaded(kind)
    migration = migrate(target, other)
    migration.run(switch=False)
    late = [{**RECORDS[0], "text": "A late oat mill."}, {"id": "new", "text": "A late one."}]

    phases = []

    def write_late(report):
        if report.phase in phases or report.phase not in ("switching", "late"):
            return
        phases.append(report.phase)
        if report.phase == "switching":
            loader = QdrantLoader(target, "docs", embedder)
            loader.load([*late, {**RECORDS[1], "text": "Changed in both."}])
            ids = {p.payload[OWN_KEY]["key"]: p.id for p in target.scroll([OWN_KEY])}
            target.pinned().delete([ids["d2"]])
        else:
            loader = QdrantLoader(target, "docs", other)
            loader.load([{"id": "fresh", "text": "By the new writer."}])
            loader.load([{**RECORDS[1], "text": "The new writer's."}])
            ids = {p.payload[OWN_KEY]["key"]: p.id for p in target.scroll([OWN_KEY])}
            target.pinned().delete([ids["d3"]])

    report = migrate(target, other, progress=write_late).run()
    assert report.conflicts == 1
    found = {p.payload[OWN_KEY]["key"]: p.payload["page_content"] for p in target.scroll(None)}
    assert found["d0"] == "A late oat mill."
    assert found["d1"] == "The new writer's."
    assert found["new"] == "A late one."
    assert found["fresh"] == "By the new writer."
    assert not {"d2", "d3"} & found.keys()
    assert len(found) == 120
    assert verify(target.pinned(), other).passed
    again = migrate(target, other).run()
    assert (again.embedded, again.deleted, again.conflicts) == (0, 0, 1)
    assert target.count() == 120


def test_a_missing_record_is_reported(loaded, migrate, embedder, other, tmp_path):
    target = loaded("embedded")
    old = target.pinned()
    migrate(target, other).run()
    QdrantLoader(old, old.collection, embedder).load([{"id": "late", "text": "A late one."}])
    with pytest.raises(CollectionError, match="1 points were written or deleted"):
        migrate(target).finish()
    for path in tmp_path.glob("*.record"):
        path.unlink()
    report = migrate(target, other).run()
    assert report.embedded == 0
    assert "differ in 1 points" in report.notes[-1]


@pytest.mark.parametrize("kind", ["embedded", "rest"])
def test_settings_change_without_embedding(loaded, migrate, embedder, kind):
    target = loaded(kind)
    embedder.embedded.clear()
    report = migrate(target, embedder, hybrid=True, layout="langchain", sample=1).run()
    assert (report.embedded, report.reused) == (0, 120)
    assert len(embedder.embedded) == 1  # the sample
    checked = verify(target.pinned(), embedder, sample=120)
    assert checked.passed, checked.problems
    assert checked.bm25 == 120
    assert QdrantLoader(target, "docs", embedder).load(RECORDS).skipped == 120


def test_a_preset_keeps_layout_and_indexes(loaded, migrate, other):
    target = loaded("rest", layout="plain", hybrid=True, settings={"indexes": {"n": "integer"}})
    migrate(target, other, preset="mrl").run()
    settings = QdrantSearcher(target, "docs", other).provenance.settings
    assert (settings.layout, settings.bm25, settings.prefix) == ("plain", "sparse", 32)
    assert dict(settings.indexes) == {"n": "integer"}
    assert verify(target.pinned(), other).passed


def test_rules_stay_unless_they_are_requested(loaded, migrate, other):
    target = loaded("embedded", hybrid=True, settings={"bm25_rule": 1})
    migrate(target, other).run()
    assert QdrantSearcher(target, "docs", other).provenance.settings.bm25_rule == 1
    migrate(target).finish()
    migrate(target, other, settings={"bm25_rule": 2}).run()
    assert QdrantSearcher(target, "docs", other).provenance.settings.bm25_rule == 2
    assert verify(target.pinned(), other).passed


def foreign(client, payload, name="docs-1"):
    vectors = models.VectorParams(size=4, distance=models.Distance.COSINE)
    client.create_collection(name, vectors)
    rng = np.random.default_rng(0)
    points = [
        models.PointStruct(id=n, vector=rng.random(4).tolist(), payload=payload(n))
        for n in range(30)
    ]
    client.upsert(name, points, wait=True)
    target = as_target(client, name)
    target.take_alias("docs")
    return as_target(client, "docs")


@pytest.mark.parametrize(
    ("payload", "arguments", "layout"),
    [
        (lambda n: {"page_content": f"mill {n}", "metadata": {"n": n / 7}}, {}, "langchain"),
        (lambda n: {"text": f"mill {n}", "n": n}, {}, "plain"),
        (lambda n: {"a": {"b": f"mill {n}"}, "n": n}, {"text_field": "a.b"}, "plain"),
    ],
    ids=["langchain", "plain", "field"],
)
@pytest.mark.parametrize("kind", ["embedded", "rest"])
def test_collections_of_other_programs(place, migrate, other, kind, payload, arguments, layout):
    target = foreign(place(kind).client, payload)
    report = migrate(target, other, hybrid=True, **arguments).run()
    assert report.embedded == 30
    found = QdrantSearcher(target, "docs", other)
    assert found.provenance.settings.layout == layout
    hit = found.search("mill 7", limit=1)[0]
    assert (hit.id, hit.text) == ("7", "mill 7")
    assert payload(7).items() <= hit.payload.items()
    assert any("ids" in note for note in report.notes)


def test_points_without_text_prevent_the_switch(place, migrate, other):
    target = foreign(place("embedded").client, lambda n: {"text": f"mill {n}"} if n else {"n": 1})
    with pytest.raises(CollectionError, match=r"1 of 30 points cannot be migrated.*point 0"):
        migrate(target, other).run()
    assert target.pinned().collection == "docs-1"
    report = migrate(target, other, skip_errors=True).run()
    assert (report.left_out, target.count()) == (1, 29)


def test_an_unknown_text_field_is_named(place, migrate, other):
    target = foreign(place("embedded").client, lambda n: {"body": f"mill {n}"})
    with pytest.raises(CollectionError, match=r"--text-field.*body"):
        migrate(target, other).run()


def test_texts_that_cannot_be_embedded_are_left_out(loaded, migrate, embedder, other):
    target = loaded("embedded")
    migrate(target, other).run(switch=False)
    embedder.embed_documents = lambda texts: np.ones((len(texts), 64), np.float32) / 8
    QdrantLoader(target, "docs", embedder).load([{**RECORDS[0], "text": "poison"}])
    with pytest.raises(CollectionError, match="no poison"):
        migrate(target, other).run()
    report = migrate(target, other, skip_errors=True).run()
    assert (report.left_out, target.count()) == (1, 119)


@pytest.mark.parametrize("kind", ["embedded", "rest"])
def test_the_name_of_a_collection_cannot_be_switched(loaded, migrate, embedder, other, kind):
    target = loaded(kind, alias=False)
    with pytest.raises(ConfigError, match=r"--alias.*--replace"):
        migrate(target, other).run()
    assert migrate(target, other, alias="live").run(switch=False).switched is False
    assert as_target(target.client, "live").pinned().collection == "docs"  # created at once
    report = migrate(target, other, alias="live").run()
    assert (report.collection, report.switched) == ("live", True)
    assert QdrantSearcher(target.client, "live", other).search("mill 7", limit=1)[0].key == "d7"
    assert verify(target, embedder).passed
    migration = QdrantMigration(target.client, "live")
    assert migration.rollback(delete=True).switched is False
    assert not as_target(target.client, report.new).exists()


@pytest.mark.parametrize("kind", ["embedded", "rest"])
def test_a_collection_can_be_replaced(loaded, migrate, other, kind, monkeypatch):
    target = loaded(kind, alias=False)
    taken = type(target).take_alias

    def killed(self, alias):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(target), "take_alias", killed)
    with pytest.raises(KeyboardInterrupt):
        migrate(target, other, replace=True).run()
    assert not target.exists()
    monkeypatch.setattr(type(target), "take_alias", taken)
    report = migrate(target, other, replace=True).run()
    assert report.switched
    assert verify(target.pinned(), other).points == 120
    with pytest.raises(CollectionError, match="deleted"):
        migrate(target).rollback()
    migrate(target).finish()
    assert target.count() == 120


@pytest.mark.parametrize("kind", ["embedded", "edge"])
def test_a_failed_verification_leaves_the_old_state(loaded, migrate, embedder, other, kind):
    target = loaded(kind)
    vector = other._vector

    def damaged(text):
        return vector(text)[::-1].copy() if len(other.embedded) <= 120 else vector(text)

    other._vector = damaged
    with pytest.raises(CollectionError, match=r"was not switched to.*cosine"):
        migrate(target, other).run()
    assert verify(target.pinned(), embedder).passed


def test_another_migration_under_way_is_named(loaded, migrate, make_embedder, other):
    target = loaded("embedded")
    migrate(target, other).run(switch=False)
    third = make_embedder(model="third", dimensions=32, revision="3")
    with pytest.raises(CollectionError, match="migration to 'org/other'"):
        migrate(target, third).run()
    migrate(target).rollback(delete=True)
    assert migrate(target, third).run().switched


def test_a_plan_writes_nothing(loaded, migrate, other):
    target = loaded("rest")
    plan = migrate(target, other, preset="mrl").plan()
    assert (plan.points, plan.embedded, plan.dimensions) == (120, 120, 48)
    assert "the alias 'docs' is switched" in plan.how
    assert plan.memory_bytes > 0
    assert plan.seconds > 0
    names = [found.name for found in target.client.get_collections().collections]
    assert names == ["docs-1"]


def test_a_changed_payload_keeps_its_present_text(loaded, migrate, other):
    target = loaded("embedded", layout="langchain")
    point = next(target.pinned().scroll(None))
    target.client.set_payload("docs-1", {"page_content": "Edited by hand."}, [point.id])
    report = migrate(target, other).run()
    assert report.changed == 1
    assert verify(target.pinned(), other, sample=120, re_embed=120).passed


def test_the_async_form_and_the_function(loaded, tmp_path, other, embedder):
    target = loaded("rest")
    migration = QdrantMigration(target, "docs", other, state_folder=tmp_path)
    assert asyncio.run(migration.arun(switch=False)).embedded == 120
    assert migrate_collection(target, "docs", other, state_folder=tmp_path).switched


@pytest.mark.parametrize("point", ["aside", "renamed", "none"])
def test_folders_of_edge_are_exchanged_without_the_system_call(
    loaded, migrate, other, monkeypatch, point
):
    from pathlib import Path

    from quernstone_qdrant.targets import edge_files

    monkeypatch.setattr(edge_files, "_exchange_at_once", lambda one, other: False)
    target = loaded("edge")
    renames, rename = [], Path.rename

    def killed(self, to):
        renames.append(to)
        if len(renames) == {"aside": 2, "renamed": 3, "none": 9}[point]:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", killed)
    migration = migrate(target, other)
    if point == "none":
        assert migration.run().switched
    else:
        with pytest.raises(KeyboardInterrupt):
            migration.run()
    monkeypatch.setattr(Path, "rename", rename)
    report = migrate(target, other).run()
    assert report.switched
    assert verify(target, other).points == 120


def scattered(embedder, text):
    seed = zlib.crc32(f"{embedder.model} {text}".encode())
    vector = np.random.default_rng(seed).standard_normal(embedder.dimensions, np.float32)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("kind", ["embedded", "rest"])
def test_queries_are_compared_by_both_models(loaded, migrate, embedder, other, kind, tmp_path):
    for model in (embedder, other):  # vectors without ties
        model._vector = partial(scattered, model)
    target = loaded(kind, preset="mrl")
    queries = ["mill 7", "mill number 8", "rye"]
    migration = migrate(target, other, queries=queries, old_embedder=embedder)
    compared = migration.run().comparison

    def nearest(embedder, target):
        found = [QdrantSearcher(target, target.collection, embedder).search(q) for q in queries]
        return [{hit.id for hit in hits} for hits in found]

    report = migration.report
    places = (as_target(target.client, name) for name in (report.old, report.new))
    before, after = map(nearest, (embedder, other), places)
    expected = [len(a & b) / 10 for a, b in zip(before, after, strict=True)]
    assert compared.query_overlaps == pytest.approx(expected)
    assert compared.query_overlap == pytest.approx(np.mean(expected))
    plot_overlap(tmp_path / "overlap.png", compared, "words", "other")
    assert "the queries were not compared" in migration.run().notes[-1]


def test_queries_need_the_model_of_the_old_collection(loaded, migrate, make_embedder, other):
    target = loaded("embedded")
    with pytest.raises(ConfigError, match="--old-model"):
        migrate(target, other, queries=["mill"])
    with pytest.raises(ConfigError, match="is one text"):
        migrate(target, other, queries="mill")
    wrong = make_embedder(revision="3")
    with pytest.raises(ProvenanceError, match="revision"):
        migrate(target, other, queries=["mill"], old_embedder=wrong).run()
    place = foreign(target.client, lambda n: {"text": f"mill {n}"}, "docs-2")
    with pytest.raises(ProvenanceError, match="dimensions 4"):
        migrate(place, other, queries=["mill"], old_embedder=wrong).run()

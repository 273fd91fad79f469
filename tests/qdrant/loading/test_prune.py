"""Pruning deletes the points of documents that no longer exist, and no others."""

import uuid

import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, SourceError, read_paths
from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.loading.prune import prune_missing
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.targets import as_target


def texts(client, collection="docs"):
    points, _ = client.scroll(collection, limit=10_000)
    return {point.payload.get("page_content") for point in points}


def test_exactly_what_changed_is_embedded_removed_and_added(client, embedder, assert_same):
    documents = {f"d{n}": f"Document {n} speaks of mills." for n in range(1000)}

    def records():
        return ({"id": key, "text": text} for key, text in documents.items())

    loader = QdrantLoader(client, "docs", embedder)
    assert loader.load(records(), prune=True).embedded == 1000
    embedder.embedded.clear()

    for n in range(100, 110):
        documents[f"d{n}"] = f"Document {n} was edited."
    for n in range(500, 505):
        del documents[f"d{n}"]
    for n in range(2000, 2007):
        documents[f"d{n}"] = f"Document {n} is new."
    report = loader.load(records(), prune=True)

    assert sorted(embedder.embedded) == sorted(
        [f"Document {n} was edited." for n in range(100, 110)]
        + [f"Document {n} is new." for n in range(2000, 2007)]
    )
    assert (report.embedded, report.pruned, report.removed, report.failed) == (17, 5, 0, 0)
    assert (report.seen, report.skipped) == (1002, 985)
    fresh = QdrantClient(":memory:")
    QdrantLoader(fresh, "docs", embedder).load(records())
    assert_same(client, fresh, "docs")
    idle = loader.load(records(), prune=True)
    assert (idle.embedded, idle.pruned, idle.skipped) == (0, 0, 1002)


def test_only_points_of_the_named_source_are_pruned(client, embedder):
    loader = QdrantLoader(client, "docs", embedder)
    loader.load([{"id": "a1", "text": "a one"}, {"id": "a2", "text": "a two"}], source="a")
    loader.load([{"id": "b1", "text": "b one"}, {"id": "b2", "text": "b two"}], source="b")
    loader.load([{"id": "c1", "text": "c one"}])
    foreign = models.PointStruct(
        id=str(uuid.uuid4()),
        vector=[1.0] * 64,
        payload={
            "page_content": "foreign",
            "quernstone": {"key": "b2", "chunk": 0, "hash": "", "source": "b"},
        },
    )
    client.upsert("docs", [foreign])

    report = loader.load([{"id": "b1", "text": "b one"}], source="b", prune=True)
    assert report.pruned == 1
    assert texts(client) == {"a one", "a two", "b one", "c one", "foreign"}
    report = loader.load([{"id": "b1", "text": "b one"}], source="b", prune="collection")
    assert report.pruned == 3
    assert texts(client) == {"b one", "foreign"}


def test_a_document_that_moved_is_of_its_new_source(client, embedder):
    loader = QdrantLoader(client, "docs", embedder)
    moved, stays = {"id": "m", "text": "moved"}, {"id": "s", "text": "stays"}
    loader.load([moved, stays], source="a")
    assert loader.load([moved], source="b").embedded == 1
    assert loader.load([moved], source="b").skipped == 1
    assert loader.load([stays], source="a", prune=True).pruned == 0
    assert loader.load([stays], source="b", prune=True).pruned == 1
    assert texts(client) == {"stays"}


def test_folders_are_sources(client, embedder, tmp_path):
    for folder in ("handbook", "wiki"):
        (tmp_path / folder).mkdir()
        for name in ("one", "two"):
            (tmp_path / folder / f"{folder}-{name}.txt").write_text(f"{folder} {name}")
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(read_paths([tmp_path / "handbook", tmp_path / "wiki"]))
    (tmp_path / "handbook" / "handbook-one.txt").unlink()
    (tmp_path / "wiki" / "wiki-one.txt").unlink()
    assert loader.load(read_paths(tmp_path / "wiki"), prune=True).pruned == 1
    assert texts(client) == {"handbook one", "handbook two", "wiki two"}


@pytest.mark.parametrize("trouble", ["nothing", "failed", "stopped"])
def test_nothing_is_pruned_after_trouble(client, embedder, trouble):
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True, batch_size=1)
    loader.load([{"id": "a", "text": "a"}, {"id": "b", "text": "b"}])
    if trouble == "nothing":
        report = loader.load([], prune="collection")
    elif trouble == "failed":
        report = loader.load([{"id": "a", "text": "a"}, SourceError("x", "gone")], prune=True)
    else:

        def stops():
            yield {"id": "a", "text": "a"}
            loader.stop()
            yield {"id": "c", "text": "c"}

        report = loader.load(stops(), prune=True)
        assert report.stopped
    assert report.pruned == 0
    assert texts(client) == {"a", "b"}


def test_a_scope_that_does_not_exist(client, embedder):
    with pytest.raises(ConfigError, match="`prune` is 'everything'"):
        QdrantLoader(client, "docs", embedder).load([], prune="everything")


def test_prune_without_loading(client, embedder):
    loader = QdrantLoader(client, "docs", embedder, chunk_size=20, chunk_overlap=0)
    records = [{"id": f"d{n}", "text": f"Document {n} is here. " * 3} for n in range(9)]
    loader.load(records[:6], source="a")
    loader.load(records[6:], source="b")
    target = as_target(client, "docs")
    keep = [Record(f"d{n}", "", source="a") for n in range(4)]
    before = client.count("docs").count
    options = {"every_source": False, "dry_run": True}
    assert prune_missing(target, keep, **options) == 6
    assert client.count("docs").count == before
    assert prune_missing(target, keep, **options | {"dry_run": False}) == 6
    assert prune_missing(target, keep, every_source=True, dry_run=False) == 9
    assert client.count("docs").count == 12
    with pytest.raises(SourceError):
        prune_missing(target, [*keep, SourceError("x", "gone")], **options)
    with pytest.raises(ConfigError, match="no documents were found"):
        prune_missing(target, [], **options)
    other_keys = [Record(f"rows.jsonl#{n}", "", source="a") for n in range(4)]
    with pytest.raises(ConfigError, match=r"none of the first 4 documents .*`id_field`"):
        prune_missing(target, other_keys, every_source=True, dry_run=False)
    assert client.count("docs").count == 12


@pytest.mark.parametrize("command", ["load", "prune"])
def test_what_another_loader_writes_meanwhile_stays(embedder, command):
    old = [{"id": key, "text": f"The old {key}."} for key in ("kept", "gone", "edited")]
    new = [{"id": "edited", "text": "The new edited."}, {"id": "new", "text": "The new new."}]
    with running_server() as server:
        QdrantLoader(server.client(), "docs", embedder).load(old, source="a")

        def listed():
            """The folder as one loader lists it, while another one loads what came since."""
            yield {"id": "kept", "text": "The old kept."}
            QdrantLoader(server.client(), "docs", embedder).load(new, source="a")

        if command == "load":
            loader = QdrantLoader(server.client(), "docs", embedder)
            pruned = loader.load(listed(), source="a", prune=True).pruned
        else:
            records = (Record(found["id"], "", source="a") for found in listed())
            target = as_target(server.client(), "docs")
            pruned = prune_missing(target, records, every_source=False, dry_run=False)
        assert pruned == 1
        assert texts(server.client()) == {"The old kept.", "The new edited.", "The new new."}


def test_numbered_points_of_another_program_do_not_hide_what_is_gone(client, embedder):
    loader = QdrantLoader(client, "docs", embedder)
    loader.load([{"id": "a", "text": "a"}, {"id": "b", "text": "b"}])
    foreign = [models.PointStruct(id=n, vector=[1.0] * 64, payload={}) for n in range(1500)]
    client.upsert("docs", foreign)
    assert loader.load([{"id": "a", "text": "a"}], prune=True).pruned == 1
    assert client.count("docs").count == 1501


def test_hashes_that_do_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr("quernstone_qdrant.loading.seen._MEMORY", 10_000)
    inside = [uuid.uuid5(uuid.NAMESPACE_DNS, str(n)).bytes for n in range(5000)]
    outside = [uuid.uuid5(uuid.NAMESPACE_DNS, str(n)).bytes for n in range(5000, 6000)]
    with SeenHashes() as seen:
        for digest in inside:
            seen.add(digest)
        folder = seen._folder.name
        assert all(digest in seen for digest in inside)
        assert not any(digest in seen for digest in outside)
        zeros = [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15)]
        assert not any(digest in seen for digest in zeros)
    from pathlib import Path

    assert not Path(folder).exists()

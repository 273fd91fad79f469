"""A collection that is replaced during a load, or created by several loaders at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from qdrant_client import models
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, QdrantLoader, QdrantSearcher, identity
from quernstone_qdrant import provenance as provenances
from quernstone_qdrant.errors import CollectionReplacedError
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.targets import access, as_target

RECORDS = [{"id": f"d{n}", "text": f"Document {n} speaks of mills."} for n in range(40)]
SETTINGS = {"batch_size": 10}


@pytest.fixture
def server():
    with running_server() as server:
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(identity, "METADATA_PATIENCE", 0.2)


def during(records, at, action):
    """Yield records, and act before one of them."""
    for number, record in enumerate(records):
        if number == at:
            action()
        yield record


def recreate(server, make_embedder):
    server.client().delete_collection("docs")
    QdrantLoader(server.client(), "docs", make_embedder())


def delete(server, _make_embedder):
    server.client().delete_collection("docs")


def recreate_elsewhere(server, _make_embedder):
    """Another program, which knows nothing of models, creates it again."""
    client = server.client()
    client.delete_collection("docs")
    vectors = models.VectorParams(size=64, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=vectors)


@pytest.mark.parametrize("action", [recreate, delete, recreate_elsewhere])
@pytest.mark.parametrize("at", [0, 25, 40])
def test_a_load_of_a_replaced_collection_is_not_complete(server, make_embedder, action, at):
    loader = QdrantLoader(server.client(), "docs", make_embedder(), **SETTINGS)
    records = [*RECORDS, {"id": "last", "text": "The last one."}]
    with pytest.raises(CollectionReplacedError, match=r"'docs': it was deleted"):
        loader.load(during(records, at, lambda: action(server, make_embedder)))


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_collection_that_is_created_between_two_requests_is_read(
    server, embedder, monkeypatch, grpc
):
    """Its configuration is not found, and then it exists."""
    target = as_target(server.client(prefer_grpc=grpc), "docs")
    exists = type(target).exists

    def created(self):
        monkeypatch.undo()
        QdrantLoader(server.client(), "docs", embedder)
        return exists(self)

    monkeypatch.setattr(type(target), "exists", created)
    assert Provenance.read(target.state()).model == embedder.model


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize("shorter", [False, True])
def test_a_load_writes_nothing_into_the_collection_of_another_model(
    server, make_embedder, grpc, shorter
):
    """Another loader takes the name after the second batch."""
    client = server.client(prefer_grpc=grpc)
    loader = QdrantLoader(client, "docs", make_embedder(), chunk_size=60, **SETTINGS)
    text = "A mill grinds corn into flour, and a quern is a mill for the hand."
    if shorter:
        loader.load([{**record, "text": text * 2} for record in RECORDS])
    others = [{"id": f"d{n}", "text": text} for n in range(40)]

    def act():
        while loader.report.seen < 20:  # until two batches are confirmed
            time.sleep(0.01)
        client.delete_collection("docs")
        QdrantLoader(client, "docs", make_embedder(model="other", revision="2")).load(others)

    with pytest.raises(CollectionReplacedError, match="deleted and created again"):
        loader.load(during(RECORDS, 20, act))
    stored, _ = client.scroll("docs", limit=1000)
    assert [point.payload["page_content"] for point in stored] == [text] * 40


def test_an_undisturbed_collection_keeps_its_identity(server, embedder):
    first = QdrantLoader(server.client(), "docs", embedder).provenance.identity
    again = QdrantLoader(server.client(), "docs", embedder)
    again.load(RECORDS)
    assert len(first) == 32
    assert again.provenance.identity == first
    server.client().delete_collection("docs")
    assert QdrantLoader(server.client(), "docs", embedder).provenance.identity != first


def test_a_collection_of_an_older_version_gets_an_identity(server, embedder):
    client = server.client()
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    metadata = client.get_collection("docs").config.metadata["quernstone"]
    del metadata["identity"]
    client.update_collection("docs", metadata={"quernstone": metadata})
    assert QdrantSearcher(client, "docs", embedder).search("mills")
    assert "identity" not in client.get_collection("docs").config.metadata["quernstone"]
    loaders = [QdrantLoader(client, "docs", embedder) for _ in range(2)]
    assert loaders[0].load(RECORDS).skipped == 40
    stored = client.get_collection("docs").config.metadata["quernstone"]
    assert stored == {**metadata, "identity": loaders[1].provenance.identity}


def alias(client, name, collection):
    operations = [
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(alias_name=name, collection_name=collection)
        )
    ]
    if any(found.alias_name == name for found in client.get_aliases().aliases):
        operations.insert(
            0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
        )
    client.update_collection_aliases(operations)


def test_an_alias_that_is_switched_does_not_divert_a_load(server, make_embedder):
    client = server.client()
    for name, model in (("one", "words"), ("two", "other")):
        QdrantLoader(client, name, make_embedder(model=model, revision=model))
    alias(client, "docs", "one")
    loader = QdrantLoader(client, "docs", make_embedder(revision="words"), **SETTINGS)
    records = during(RECORDS, 25, lambda: alias(client, "docs", "two"))
    with pytest.raises(CollectionReplacedError, match="alias was switched from 'one' to 'two'"):
        loader.load(records)
    assert client.count("one").count == 40
    assert client.count("two").count == 0


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("existing", [False, True])
def test_four_loaders_start_together(make_embedder, monkeypatch, nodes, existing):
    with running_server(nodes=nodes) as server:
        server.metadata_delay = 0.3 if nodes > 1 else 0
        monkeypatch.setattr(provenances, "_ADOPTION_SECONDS", 1.0)  # as users have it
        monkeypatch.setattr(access, "_SETTLE_SECONDS", 1.0)  # instead of 5 s
        if existing:
            recreate_elsewhere_first = models.VectorParams(size=64, distance="Cosine")
            server.client().create_collection("docs", vectors_config=recreate_elsewhere_first)
        gate = threading.Barrier(4)

        def load(number):
            client = server.client(node=number % nodes)
            gate.wait()
            loader = QdrantLoader(client, "docs", make_embedder(), preset=None, **SETTINGS)
            return loader.load(RECORDS[10 * number : 10 * number + 10]), loader.provenance

        with ThreadPoolExecutor(4) as pool:
            loaded = list(pool.map(load, range(4)))
        assert [report.embedded for report, _ in loaded] == [10] * 4
        assert len({provenance.settings.layout for _, provenance in loaded}) == 1
        assert as_target(server.client(), "docs").count() == 40


def test_a_loader_that_comes_second_gets_the_first_ones_settings(server, make_embedder):
    """The other loader creates the collection between the question and the creation."""
    first = QdrantLoader(server.client(), "docs", make_embedder(), preset="float16")

    class Late(type(as_target(server.client(), "docs"))):
        asked = 0

        def exists(self):
            self.asked += 1
            return self.asked > 1 and super().exists()

    second = QdrantLoader(Late(server.client(), "docs"), "docs", make_embedder())
    assert second.provenance == first.provenance
    with pytest.raises(CollectionError, match="was created with datatype='float16'"):
        QdrantLoader(Late(server.client(), "docs"), "docs", make_embedder(), preset="dense")


def test_metadata_that_comes_late_is_waited_for(make_embedder):
    embedder = make_embedder()
    provenance = Provenance.of(embedder, "docs")
    settings = provenance.settings.resolved(64)
    with running_server(nodes=3) as server:
        server.metadata_delay = 1.0
        metadata = replace(provenance, settings=settings, identity="1").metadata()
        as_target(server.client(), "docs").create(settings, 64, metadata)
        other = server.client(node=1)
        assert not other.get_collection("docs").config.metadata  # it is late
        assert QdrantSearcher(other, "docs", embedder).search("mills") == []
        assert QdrantLoader(server.client(node=2), "docs", embedder).load(RECORDS).embedded

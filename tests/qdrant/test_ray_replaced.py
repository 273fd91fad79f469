"""A collection that is replaced during a load with Ray.

The stages run in this process, in the order of their groups; `test_ray.py` runs them on a cluster.
"""

from types import SimpleNamespace

import pytest
from qdrant_client import models

from quernstone_qdrant import QdrantLoader, identity
from quernstone_qdrant.errors import CollectionReplacedError, RecordError, TransientError

pytest.importorskip("ray", reason="the extra `ray` is not installed")

import pyarrow as pa
import ray

from quernstone_qdrant.ray import RayLoader

RECORDS = [{"id": f"d{n}", "text": f"Document {n} speaks of mills."} for n in range(40)]
GROUP = 10


class Groups:
    """A dataset that acts before one of its groups of rows."""

    def __init__(self, groups):
        self.groups = groups

    @classmethod
    def of(cls, records, at=None, action=None):
        def groups():
            for start in range(0, len(records) + 1, GROUP):
                if start == at:
                    action()
                if records[start : start + GROUP]:
                    yield pa.Table.from_pylist(records[start : start + GROUP])

        return cls(groups())

    def map_batches(self, function, *, fn_constructor_args=None, **_):
        if fn_constructor_args is not None:
            function = function(*fn_constructor_args)
        return type(self)(map(function, self.groups))

    def iter_rows(self):
        return (row for group in self.groups for row in group.to_pylist())


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "remote", lambda **_: lambda task: SimpleNamespace(remote=task))
    monkeypatch.setattr(ray, "get", lambda result: result)
    monkeypatch.setattr(identity, "METADATA_PATIENCE", 0.2)


@pytest.fixture
def connect(shared_server, either_client):
    by_grpc = either_client._client._prefer_grpc
    return lambda: shared_server.client(prefer_grpc=by_grpc)


@pytest.fixture
def make_loader(connect, make_embedder):
    def make_loader(**options):
        return RayLoader(connect, "docs", make_embedder, workers=1, documents=GROUP, **options)

    return make_loader


def recreate(client, make_embedder):
    client.delete_collection("docs")
    QdrantLoader(client, "docs", make_embedder())


def delete(client, _make_embedder):
    client.delete_collection("docs")


def recreate_elsewhere(client, _make_embedder):
    """Another program creates it again, with vectors of another name."""
    client.delete_collection("docs")
    vectors = {"other": models.VectorParams(size=64, distance=models.Distance.COSINE)}
    client.create_collection("docs", vectors_config=vectors)


@pytest.mark.parametrize("action", [recreate, delete, recreate_elsewhere])
@pytest.mark.parametrize(("at", "skip"), [(0, False), (20, False), (20, True), (40, False)])
def test_a_load_of_a_replaced_collection_is_not_complete(
    either_client, make_loader, make_embedder, action, at, skip
):
    dataset = Groups.of(RECORDS, at, lambda: action(either_client, make_embedder))
    with pytest.raises(CollectionReplacedError, match=r"'docs': it was deleted"):
        make_loader(skip_errors=skip, patience=5).load(dataset)


def test_a_load_writes_nothing_into_the_collection_of_another_model(
    either_client, make_loader, make_embedder
):
    def act():
        either_client.delete_collection("docs")
        QdrantLoader(either_client, "docs", make_embedder(model="other", revision="2"))

    with pytest.raises(CollectionReplacedError, match="deleted and created again"):
        make_loader(patience=5).load(Groups.of(RECORDS, 20, act))
    assert either_client.count("docs").count == 0


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("two", "alias was switched from 'one' to 'two'"),
        (None, "alias was deleted, perhaps with its collection 'one'"),
    ],
)
def test_an_alias_that_is_switched_does_not_divert_a_load(
    either_client, make_loader, make_embedder, skip, new, message
):
    for name in ("one", "two"):
        QdrantLoader(either_client, name, make_embedder())

    def lead_to(name):
        create = models.CreateAlias(alias_name="docs", collection_name=name)
        return models.CreateAliasOperation(create_alias=create)

    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="docs"))
    either_client.update_collection_aliases([lead_to("one")])

    def switch():
        either_client.update_collection_aliases([drop, *([lead_to(new)] if new else [])])

    with pytest.raises(CollectionReplacedError, match=message):
        make_loader(skip_errors=skip).load(Groups.of(RECORDS, 20, switch))
    assert either_client.count("one").count == len(RECORDS)
    assert either_client.count("two").count == 0


def test_an_undisturbed_load_is_complete(shared_server, either_client, make_loader):
    report = make_loader().load(Groups.of(RECORDS))
    assert (report.seen, report.embedded, report.points) == (40, 40, 40)
    assert make_loader().load(Groups.of(RECORDS)).skipped == 40


def test_other_errors_stay_what_they_are(shared_server, either_client, make_loader):
    bad = [*RECORDS[:15], {"id": "bad", "text": None}]
    with pytest.raises(RecordError, match="'bad'"):
        make_loader().load(Groups.of(bad))

    def break_server():
        shared_server.chaos = lambda _, path: "500" if "/points" in path else None

    with pytest.raises(TransientError, match="fault 500"):
        make_loader(patience=0).load(Groups.of(RECORDS, 20, break_server))


def test_the_opening_is_retried(shared_server, either_client, make_loader):
    left = ["500"]
    shared_server.chaos = lambda _, path: left.pop() if left and path == "/aliases" else None
    assert make_loader().load(Groups.of(RECORDS)).embedded == 40
    assert not left


def test_a_value_of_another_type_than_the_index_is_an_error(either_client, make_loader):
    """As for `QdrantLoader`: a filter would never find it."""
    settings = {"indexes": {"year": "integer"}}
    rows = [*({**record, "year": 1} for record in RECORDS), {"id": "x", "text": "y", "year": "z"}]
    with pytest.raises(RecordError, match=r"'x': .*year"):
        make_loader(settings=settings).load(Groups.of(rows))

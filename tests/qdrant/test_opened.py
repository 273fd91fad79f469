"""Searches of a collection that is replaced, and searches through faults."""

import asyncio
import itertools
import threading
from functools import partial

import pytest
from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.errors import (
    CollectionError,
    CollectionNotFoundError,
    ProvenanceError,
    RefusedError,
    TransientError,
)
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.searching import finding as searcher_module
from quernstone_qdrant.targets import ClientTarget
from quernstone_qdrant.targets.edge import EdgeTarget

BLUE = [{"id": "mill", "text": "A quern is a stone mill."}]
GREEN = [{"id": "rain", "text": "Rain falls on the stone roof."}]
HITS = {"blue": ("mill", BLUE[0]["text"]), "green": ("rain", GREEN[0]["text"])}


def switch(client, name):
    """Let the alias `live` lead to another collection."""
    create = models.CreateAlias(alias_name="live", collection_name=name)
    operations = [models.CreateAliasOperation(create_alias=create)]
    if client.get_aliases().aliases:
        drop = models.DeleteAlias(alias_name="live")
        operations.insert(0, models.DeleteAliasOperation(delete_alias=drop))
    client.update_collection_aliases(operations)


@pytest.fixture
def live(either_client, embedder):
    """A client of two collections that differ in all their settings, and an alias of the first."""
    blue = QdrantLoader(either_client, "blue", embedder, layout="langchain", preset="mrl")
    blue.load(BLUE)
    QdrantLoader(either_client, "green", embedder, layout="plain", hybrid=True).load(GREEN)
    switch(either_client, "blue")
    return either_client


@pytest.fixture(params=["sync", "async"])
def search(request):
    """Searches, and returns the key and text of each hit."""

    def search(searcher, **arguments):
        if request.param == "sync":
            hits = searcher.search("stone", **arguments)
        else:
            hits = asyncio.run(searcher.asearch("stone", **arguments))
        return [(hit.key, hit.text) for hit in hits]

    return search


@pytest.fixture
def check_always(monkeypatch):
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", -1.0)


class Scripted(ClientTarget):
    """A target that runs `before` and `after`, once, around a query, and `opening` while opened."""

    before = after = opening = None

    @classmethod
    def _run(cls, name):
        action = getattr(cls, name)
        if action is not None:
            setattr(cls, name, None)
            action()

    def pinned(self):
        pinned = super().pinned()
        self._run("opening")
        return pinned

    def query(self, request):
        self._run("before")
        found = super().query(request)
        self._run("after")
        return found


@pytest.fixture
def scripted():
    yield Scripted
    Scripted.before = Scripted.after = Scripted.opening = None


@pytest.mark.usefixtures("check_always")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_search_follows_an_alias_that_is_switched_during_it(
    live, embedder, scripted, search, moment
):
    """Another thread follows it at the same moment."""
    searcher = QdrantSearcher(scripted(live, "live"), "live", embedder)
    others = []

    def follow():
        switch(live, "green")
        thread = threading.Thread(target=lambda: others.append(searcher.search("stone")[0].text))
        thread.start()
        thread.join()

    setattr(scripted, moment, follow)
    assert search(searcher) == [HITS["green"]]
    assert others == [GREEN[0]["text"]]


@pytest.fixture
def check_never(monkeypatch):
    """Searches within the second after the collection was read."""
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 3600.0)


def recreate(client, _embedder, other):
    client.delete_collection("docs")
    QdrantLoader(client, "docs", other).load(GREEN)


def recreate_elsewhere(client, embedder, _other):
    """Another program creates it again, with vectors of the same size and no record of a model."""
    client.delete_collection("docs")
    size = embedder.dimensions
    client.create_collection("docs", models.VectorParams(size=size, distance="Cosine"))
    vector = embedder.embed_query("stone").tolist()
    client.upsert("docs", [models.PointStruct(id=1, vector=vector, payload={})])


def switch_to_other(client, _embedder, other):
    QdrantLoader(client, "other", other).load(GREEN)
    switch(client, "other")


@pytest.mark.usefixtures("check_never")
@pytest.mark.parametrize("moment", ["opened", "before", "after"])
@pytest.mark.parametrize("replace", [recreate, recreate_elsewhere, switch_to_other])
def test_hits_of_another_model_are_never_returned(
    either_client, make_embedder, scripted, search, replace, moment
):
    """It takes the place of the collection before the search, or around its request."""
    embedder, other = make_embedder(), make_embedder(model="other", revision="other")
    name = "live" if replace is switch_to_other else "docs"
    QdrantLoader(either_client, "docs", embedder).load(BLUE)
    switch(either_client, "docs")
    searcher = QdrantSearcher(scripted(either_client, name), name, embedder)

    def act():
        replace(either_client, embedder, other)

    if moment == "opened":
        act()
    else:
        setattr(scripted, moment, act)
    with pytest.raises(CollectionError, match=r"with model 'other'|does not record which model"):
        search(searcher)


@pytest.mark.usefixtures("check_never")
@pytest.mark.parametrize("moment", ["opened", "before", "after"])
def test_a_collection_that_was_loaded_again_is_searched_again(
    either_client, embedder, scripted, search, moment
):
    """The same model, in a collection with other settings: all of them belong to the hits."""
    QdrantLoader(either_client, "docs", embedder, preset="mrl", hybrid=True).load(BLUE)
    searcher = QdrantSearcher(scripted(either_client, "docs"), "docs", embedder)

    def act():
        either_client.delete_collection("docs")
        QdrantLoader(either_client, "docs", embedder, layout="plain").load(GREEN)

    if moment == "opened":
        act()
    else:
        setattr(scripted, moment, act)
    assert search(searcher) == [HITS["green"]]


@pytest.mark.parametrize("place", ["embedded", "edge"])
def test_other_targets_notice_a_replaced_collection(client, make_embedder, tmp_path, place):
    def open_target():
        return client if place == "embedded" else EdgeTarget(tmp_path, "docs")

    here = open_target()
    QdrantLoader(here, "docs", make_embedder()).load(BLUE)
    searcher = QdrantSearcher(here, "docs", make_embedder())
    if place == "embedded":
        client.delete_collection("docs")
        QdrantLoader(client, "docs", make_embedder(revision="other")).load(GREEN)
    else:
        here.describe(Provenance.of(make_embedder(revision="other"), "docs").metadata())
    with pytest.raises(ProvenanceError, match="with revision 'other'"):
        searcher.search("stone")


def test_a_name_that_never_rests_ends_a_search(live, embedder, scripted):
    """The alias moves during each search."""
    names = itertools.cycle(["green", "blue"])

    class Restless(scripted):
        def query(self, request):
            found = super().query(request)
            switch(live, next(names))
            return found

    searcher = QdrantSearcher(Restless(live, "live"), "live", embedder)
    with pytest.raises(TransientError, match="'live' was replaced during each of 5 searches"):
        searcher.search("stone")


def test_threads_never_mix_two_collections(live, embedder, monkeypatch):
    """Four threads search while the alias moves back and forth."""
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 0.0)
    searcher = QdrantSearcher(live, "live", embedder)
    found, done = [], threading.Event()

    def ask():
        while not done.is_set():
            found.extend((hit.key, hit.text) for hit in searcher.search("stone"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for name in ["green", "blue"] * 4:
        switch(live, name)
    done.set()
    for thread in threads:
        thread.join()
    assert set(found) <= set(HITS.values())
    assert len(found) >= len(threads)


@pytest.mark.usefixtures("check_always")
def test_a_slow_check_does_not_replace_the_result_of_a_later_one(
    live, embedder, scripted, search, monkeypatch
):
    searcher = QdrantSearcher(scripted(live, "live"), "live", embedder)

    def overtake():
        switch(live, "green")
        assert searcher.search("stone")[0].key == "rain"

    scripted.opening = overtake
    assert search(searcher) == [HITS["green"]]
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 3600.0)
    assert search(searcher) == [HITS["green"]]


def test_the_old_collection_may_be_deleted_right_after_the_switch(live, embedder, search):
    searcher = QdrantSearcher(live, "live", embedder)
    switch(live, "green")
    live.delete_collection("blue")
    assert search(searcher) == [HITS["green"]]


def test_the_old_collection_may_be_deleted_while_the_new_one_is_opened(live, embedder, scripted):
    def replace():
        switch(live, "green")
        live.delete_collection("blue")

    scripted.opening = replace
    searcher = QdrantSearcher(scripted(live, "live"), "live", embedder)
    assert searcher.search("stone")[0].key == "rain"


def test_a_deleted_collection_is_named(live, embedder, search):
    searcher = QdrantSearcher(live, "green", embedder)
    live.delete_collection("green")
    with pytest.raises(CollectionNotFoundError, match="'green' does not exist"):
        search(searcher)


def failing(server, fault, times, part):
    """Let the next requests whose path contains `part` fail."""
    left = [fault] * times

    def choose(_method, path):
        return left.pop() if left and part in path else None

    server.chaos = choose
    return left


@pytest.mark.parametrize("fault", ["500", "429-bare", "drop"])
def test_a_search_is_retried(shared_server, live, embedder, search, fault):
    searcher = QdrantSearcher(live, "green", embedder)
    left = failing(shared_server, fault, 1, "/points/query")
    assert search(searcher) == [HITS["green"]]
    assert not left


@pytest.mark.usefixtures("check_always")
@pytest.mark.parametrize("part", ["/aliases", "/collections/blue"])
def test_the_check_of_the_collection_is_retried(shared_server, live, embedder, search, part):
    open_searcher = partial(QdrantSearcher, live, "live", embedder)
    left = failing(shared_server, "500", 1, part)
    searcher = open_searcher()
    assert not left
    left = failing(shared_server, "500", 1, part)
    assert search(searcher) == [HITS["blue"]]
    assert not left


def test_patience_ends(shared_server, live, embedder, search):
    failing(shared_server, "500", 99, "/points/query")
    with pytest.raises(TransientError, match="fault 500") as raised:
        search(QdrantSearcher(live, "green", embedder, patience=0))
    assert "gave up" not in str(raised.value)
    message = r"fault 500.* \(gave up after \d+ attempts? in .* the limit is 0.3 s\)"
    with pytest.raises(TransientError, match=message):
        search(QdrantSearcher(live, "green", embedder, patience=0.3))
    with pytest.raises(ConfigError, match="`patience` is -1"):
        QdrantSearcher(live, "green", embedder, patience=-1)


def test_a_final_error_is_raised_at_once(shared_server, live, embedder, search):
    searcher = QdrantSearcher(live, "green", embedder)
    left = failing(shared_server, "400", 9, "/points/query")
    with pytest.raises(RefusedError, match="fault 400"):
        search(searcher)
    assert len(left) == 8

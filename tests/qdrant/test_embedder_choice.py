"""A searcher that follows a collection to another model and back."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from tests.qdrant.conftest import WordEmbedder
from tests.qdrant.test_opened import Scripted, switch
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import EdgeTarget, ProvenanceError, QdrantLoader, QdrantMigration
from quernstone_qdrant.embedder_choice import EmbedderChoice
from quernstone_qdrant.searcher import QdrantSearcher
from quernstone_qdrant.searching import finding as searcher_module
from quernstone_qdrant.targets import as_target

RECORDS = [{"id": f"d{n}", "text": f"Mill {n} grinds rye."} for n in range(9)]
TEXTS = {record["id"]: record["text"] for record in RECORDS}


class Reversed(WordEmbedder):
    """Another model, whose vectors are of the same size and useless to the first."""

    def __init__(self, dimensions=64):
        super().__init__("reversed", dimensions, "2")

    def _vector(self, text):
        return super()._vector(text)[::-1].copy()


class Shelf:
    """Gives the second model, and remembers the models that it was asked for."""

    def __init__(self, dimensions=64):
        self.other, self.asked = Reversed(dimensions), []

    def __call__(self, recorded):
        self.asked.append(recorded.model)
        return self.other


def check(hit, number, embedder):
    """The best hit is the text of the query, with its cosine by this model."""
    assert hit.key == f"d{number}"
    query, text = (embedder._vector(text) for text in (f"mill {number}", TEXTS[hit.key]))
    assert hit.score == pytest.approx(float(query @ text), abs=1e-3)


@pytest.fixture(params=["sync", "async"])
def search(request):
    def search(searcher, *arguments, **named):
        if request.param == "sync":
            return searcher.search(*arguments, **named)
        return asyncio.run(searcher.asearch(*arguments, **named))

    return search


@pytest.fixture(params=["embedded", "rest"])
def live(request, client, shared_server):
    """A client of the collections `old` and `new`, of two models, and the alias `live`."""
    if request.param != "embedded":
        client = shared_server.client()
    QdrantLoader(client, "old", WordEmbedder()).load(RECORDS)
    QdrantLoader(client, "new", Reversed(), layout="plain", preset="mrl").load(RECORDS)
    switch(client, "old")
    yield client
    for name in ("old", "new"):
        client.delete_collection(name)
    Scripted.before = Scripted.after = Scripted.opening = None


@pytest.mark.parametrize("moment", ["opened", "before", "after"])
def test_a_searcher_follows_the_switch_and_the_rollback(live, search, monkeypatch, moment):
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 3600.0)
    words, shelf = WordEmbedder(), Shelf()
    searcher = QdrantSearcher(Scripted(live, "live"), "live", words, embedder_for=shelf)
    check(search(searcher, "mill 7")[0], 7, words)
    for name, embedder in (("new", shelf.other), ("old", words), ("new", shelf.other)):
        if moment == "opened":
            switch(live, name)
        else:
            setattr(Scripted, moment, lambda name=name: switch(live, name))
        check(search(searcher, "mill 8")[0], 8, embedder)
        assert searcher.embedder is embedder
        [hit] = search(searcher, "oats", 1, hypothetical=["mill 6", "mill 6 rye"])
        assert hit.key == "d6"
    assert shelf.asked == ["reversed"]


def test_a_vector_of_the_old_model_is_not_searched_for(live, search):
    words = WordEmbedder()
    searcher = QdrantSearcher(Scripted(live, "live"), "live", words, embedder_for=Shelf())
    vector = words.embed_query("mill 7")
    check(search(searcher, "mill 7", vector=vector)[0], 7, words)
    Scripted.before = lambda: switch(live, "new")
    with pytest.raises(ProvenanceError, match="reversed"):
        search(searcher, "mill 7", vector=vector)
    with pytest.raises(ConfigError, match="`hypothetical`"):
        search(searcher, "mill 7", vector=vector, hypothetical=["mill"])
    with pytest.raises(ConfigError, match="must be a list of texts"):
        search(searcher, "mill 7", hypothetical=[])
    with pytest.raises(ConfigError, match="must be a list of texts"):
        search(searcher, "mill 7", hypothetical="mill")


def test_an_embedder_of_a_third_model_is_refused(live):
    searcher = QdrantSearcher(
        live, "live", WordEmbedder(), embedder_for=lambda _: WordEmbedder(revision="3")
    )
    switch(live, "new")
    with pytest.raises(ProvenanceError, match=r"'reversed'.*'words'"):
        searcher.search("mill 7")


@pytest.mark.parametrize(("kind", "dimensions"), [("edge", 64), ("rest", 64), ("rest", 48)])
def test_threads_search_throughout_a_migration(tmp_path, monkeypatch, kind, dimensions):
    """Two threads search during the migration, the rollback, and the second switch."""
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 0.01)
    words, shelf = WordEmbedder(), Shelf(dimensions)
    models, found, done = (words, shelf.other), [], threading.Event()
    with running_server() as server, closing(server.client()) as client:
        if kind == "edge":
            target = EdgeTarget(tmp_path / "edge", "live")
            QdrantLoader(target, "live", words).load(RECORDS)
        else:
            QdrantLoader(client, "old", words).load(RECORDS)
            switch(client, "old")
            target = as_target(client, "live")
        searcher = QdrantSearcher(target, "live", words, embedder_for=shelf)

        def ask(number):
            while not done.is_set():
                query, text = f"mill {number}", TEXTS[f"d{number}"]
                hit = searcher.search(query, 1)[0]
                scores = [float(model._vector(query) @ model._vector(text)) for model in models]
                found.append((hit.key == f"d{number}", hit.score, scores))

        migration = QdrantMigration(
            target, "live", shelf.other, sample=5, state_folder=tmp_path, index_timeout=60
        )
        with ThreadPoolExecutor(2) as pool:
            threads = [pool.submit(ask, number) for number in range(2)]
            try:
                assert migration.run().switched
                QdrantMigration(target, "live", state_folder=tmp_path).rollback()
                assert migration.run().switched
            finally:
                done.set()
            for thread in threads:
                thread.result()
        assert all(is_right for is_right, _, _ in found)
        for _, score, scores in found:
            assert min(abs(score - known) for known in scores) < 1e-3
        check(searcher.search("mill 7", 1)[0], 7, shelf.other)
        assert shelf.asked == ["reversed"]
        if kind == "edge":
            target.close()


def test_threads_load_a_model_once(client):
    QdrantLoader(client, "new", Reversed()).load(RECORDS[:1])
    asked, ready = [], threading.Barrier(3)

    def load(recorded):
        asked.append(recorded.model)
        return Reversed()

    choice, state = EmbedderChoice(WordEmbedder(), load), as_target(client, "new").state()

    def choose():
        ready.wait()
        chosen.append(choice.of(state, "new", allow_mismatch=False)[1])

    chosen = []
    threads = [threading.Thread(target=choose) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["reversed"]
    assert len({id(one) for one in chosen}) == 1

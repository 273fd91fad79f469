import time
import warnings

import pytest
from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant import (
    CollectionError,
    CollectionNotFoundError,
    ProvenanceError,
    QdrantLoader,
    QdrantSearcher,
)
from quernstone_qdrant.searching import finding as searcher_module

RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill for grinding grain.", "topic": "tools"},
    {"id": "rain", "text": "Rain falls on the stone roof.", "topic": "weather"},
    {"id": "bread", "text": "Bread is made of grain.", "topic": "food"},
]


@pytest.fixture
def collection(client, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    return "docs"


def test_dense_search(client, collection, embedder):
    hits = QdrantSearcher(client, collection, embedder).search("grinding grain mill", limit=2)
    assert [(hit.key, hit.retrieval_rank, hit.rerank_score) for hit in hits] == [
        ("mill", 1, None),
        ("bread", 2, None),
    ]
    assert hits[0].text == RECORDS[0]["text"]
    assert hits[0].metadata == {"topic": "tools", "chunk": 0}
    assert 1 >= hits[0].score > hits[1].score > 0


def test_reranked_search_keeps_the_first_rank(client, collection, embedder, reranker):
    searcher = QdrantSearcher(client, collection, embedder, reranker)
    hits = searcher.search("grinding grain mill", limit=2)
    assert [(hit.key, hit.retrieval_rank) for hit in hits] == [("bread", 2), ("rain", 3)]
    assert hits[0].rerank_score == pytest.approx(1 / 24)
    assert searcher.search("grinding grain mill", limit=2, candidates=2)[1].key == "mill"


def test_filter(client, collection, embedder):
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="weather"))]
    )
    hits = QdrantSearcher(client, collection, embedder).search("grain", query_filter=only)
    assert [hit.key for hit in hits] == ["rain"]


def test_nothing_to_rerank(client, collection, embedder, reranker):
    nothing = models.Filter(must=[models.HasIdCondition(has_id=[])])
    searcher = QdrantSearcher(client, collection, embedder, reranker)
    assert searcher.search("grain", query_filter=nothing) == []


def test_a_missing_collection_names_the_others(client, collection, embedder):
    with pytest.raises(CollectionNotFoundError, match=r"'nope' does not exist \(available: 'docs'"):
        QdrantSearcher(client, "nope", embedder)
    client.delete_collection("docs")
    with pytest.raises(CollectionNotFoundError, match="no collection exists; load documents first"):
        QdrantSearcher(client, "nope", embedder)


def test_another_model_is_refused(client, collection, embedder, make_embedder):
    with pytest.raises(ProvenanceError, match="'docs' was created with model 'words'"):
        QdrantSearcher(client, collection, make_embedder(model="other", revision="2"))
    client.create_collection(
        "foreign", vectors_config=models.VectorParams(size=64, distance=models.Distance.COSINE)
    )
    with pytest.raises(CollectionError, match="does not record which model"):
        QdrantSearcher(client, "foreign", embedder)


def test_limits_that_cannot_work(client, collection, embedder):
    searcher = QdrantSearcher(client, collection, embedder)
    with pytest.raises(ConfigError, match="`limit` is 0"):
        searcher.search("grain", limit=0)
    for wrong in ("3", 2.5, True):
        for name in ("limit", "candidates", "prefetch"):
            with pytest.raises(ConfigError, match=f"`{name}` is {wrong!r}; it must be a whole num"):
                searcher.search("grain", **{name: wrong})
    with pytest.raises(ConfigError, match="`candidates` is 2; it must be at least `limit`, 3"):
        searcher.search("grain", limit=3, candidates=2)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 0.0)


def switch(client, name):
    client.update_collection_aliases(
        [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="live")),
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(alias_name="live", collection_name=name)
            ),
        ]
    )


@pytest.mark.usefixtures("impatient")
def test_a_searcher_follows_an_alias_and_never_to_another_model(
    shared_server, either_client, make_embedder
):
    words, others = make_embedder(), make_embedder(revision="2")
    QdrantLoader(either_client, "blue", words).load(RECORDS[:1])
    QdrantLoader(either_client, "green", words).load(RECORDS[1:])
    QdrantLoader(either_client, "foreign", others).load(RECORDS)
    live = models.CreateAlias(alias_name="live", collection_name="blue")
    either_client.update_collection_aliases([models.CreateAliasOperation(create_alias=live)])
    searcher = QdrantSearcher(either_client, "live", words)
    assert [hit.key for hit in searcher.search("stone")] == ["mill"]
    switch(either_client, "green")
    assert {hit.key for hit in searcher.search("stone")} == {"rain", "bread"}
    switch(either_client, "foreign")
    with pytest.raises(ProvenanceError, match="was created with revision '2'"):
        searcher.search("stone")
    queries = [r for r in shared_server.requests if r.path == "/collections/foreign/points/query"]
    assert not queries


@pytest.mark.usefixtures("impatient")
async def test_a_collection_that_another_model_created_again_is_refused(
    either_client, make_embedder
):
    words, others = make_embedder(), make_embedder(revision="2")
    QdrantLoader(either_client, "docs", words).load(RECORDS)
    searcher = QdrantSearcher(either_client, "docs", words)
    assert len(await searcher.asearch("stone")) == len(RECORDS)
    either_client.delete_collection("docs")
    QdrantLoader(either_client, "docs", others).load(RECORDS)
    with pytest.raises(ProvenanceError, match="was created with revision '2'"):
        await searcher.asearch("stone")


def test_a_refused_collection_is_refused_again(either_client, make_embedder, monkeypatch):
    monkeypatch.setattr(searcher_module, "_SECONDS_BETWEEN_CHECKS", 0.2)
    words, others = make_embedder(), make_embedder(revision="2")
    QdrantLoader(either_client, "docs", words).load(RECORDS)
    searcher = QdrantSearcher(either_client, "docs", words)
    either_client.delete_collection("docs")
    QdrantLoader(either_client, "docs", others).load(RECORDS)
    time.sleep(0.3)
    for _ in range(3):
        with pytest.raises(ProvenanceError, match="was created with revision '2'"):
            searcher.search("stone")


def test_a_misspelled_field_of_a_filter_is_warned_of_once(client, embedder):
    QdrantLoader(client, "docs", embedder).load([{"id": "a", "text": "A quern.", "year": 1200}])
    searcher = QdrantSearcher(client, "docs", embedder)
    with pytest.warns(UserWarning, match="no document of collection 'docs' has the field 'yaer'"):
        assert searcher.search("mill", query_filter={"yaer": 1200}) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert searcher.search("mill", query_filter={"yaer": 1200}) == []
        assert searcher.search("mill", query_filter={"year": 9}) == []


def test_candidates_without_a_reranker_are_an_error(client, collection, embedder):
    searcher = QdrantSearcher(client, collection, embedder)
    with pytest.raises(ConfigError, match=r"`candidates` .* there is no reranker: pass one, or"):
        searcher.search("grain", limit=2, candidates=5)
    with pytest.raises(ConfigError, match="there is no reranker"):
        searcher.search_many(["grain"], limit=2, candidates=5)

"""`QuernstoneRetriever` over collections that a `QdrantLoader` filled."""

import sys

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError
from qdrant_client import QdrantClient, models

from langchain_quernstone import (
    QuernstoneEmbeddings,
    QuernstoneReranker,
    QuernstoneRetriever,
)
from quernstone import ConfigError, Embedder, MissingExtraError, Reranker
from quernstone_qdrant import (
    Feedback,
    Popularity,
    QdrantLoader,
    QdrantMigration,
    QdrantSearcher,
)

QUERY = "how was grain ground?"
RECORDS = [
    {"id": "mill", "text": "A quern is a stone hand mill for grain.", "year": 1200},
    {"id": "rain", "text": "It rains in Bergen. Error E-4711 says so.", "year": 2026},
    {"id": "oven", "text": "Bread is baked in an oven.", "year": 1200},
    {"id": "gcc", "text": "A compiler for C.", "year": 1987},
]
COLLECTIONS = {
    "dense": {},
    "pair": {"preset": "mrl"},
    "hybrid": {"hybrid": True},
    "langchain": {"layout": "langchain"},
    "plain": {"layout": "plain"},
    "llamaindex": {"layout": "llamaindex"},
}


def collection(**settings):
    client = QdrantClient(":memory:")
    QdrantLoader(client, "notes", Embedder("tiny"), **settings).load(RECORDS)
    return client


@pytest.fixture(scope="module")
def clients():
    clients = {name: collection(**settings) for name, settings in COLLECTIONS.items()}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def client(clients):
    return clients["hybrid"]


def opened(client, **settings):
    embeddings = QuernstoneEmbeddings(model="tiny")
    return QuernstoneRetriever.from_collection(client, "notes", embeddings, **settings)


class TestStandard(RetrieversIntegrationTests):
    """The suite of langchain-tests, unchanged."""

    @pytest.fixture(autouse=True)
    def _client(self, client):
        self.client = client

    @property
    def retriever_constructor(self):
        return QuernstoneRetriever

    @property
    def retriever_constructor_params(self):
        embeddings = QuernstoneEmbeddings(model="tiny")
        return {"searcher": QdrantSearcher(self.client, "notes", embeddings)}

    @property
    def retriever_query_example(self):
        return QUERY


class TestStandardReranked(TestStandard):
    @property
    def retriever_constructor_params(self):
        embeddings, reranker = QuernstoneEmbeddings(model="tiny"), Reranker("tiny")
        return {"searcher": QdrantSearcher(self.client, "notes", embeddings, reranker)}


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("reranked", [False, True])
async def test_documents_are_the_hits_of_the_searcher(clients, name, reranked):
    reranker = Reranker("tiny") if reranked else None
    retriever = opened(clients[name], reranker=reranker, k=3)
    hits = QdrantSearcher(clients[name], "notes", Embedder("tiny"), reranker).search(QUERY, 3)
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert [document.id for document in found] == [hit.id for hit in hits]
        for document, hit in zip(found, hits, strict=True):
            assert document.page_content == hit.text
            metadata = document.metadata
            assert metadata["year"] == hit.metadata["year"]
            assert metadata["_key"] == hit.key
            assert (metadata["_id"], metadata["_collection_name"]) == (hit.id, "notes")
            assert metadata["retrieval_score"] == pytest.approx(hit.score, abs=1e-6)
            assert metadata.get("fused_score") == hit.fused_score
            assert metadata.get("relevance_score") == pytest.approx(hit.rerank_score, abs=1e-6)
    assert found[0].metadata["_key"] == "mill"


async def test_settings_can_change_for_one_query(client):
    retriever = opened(client, query_filter={"year": 1200})
    assert {d.metadata["_key"] for d in retriever.invoke(QUERY)} == {"mill", "oven"}
    year = models.FieldCondition(key="metadata.year", match=models.MatchValue(value=1987))
    [found] = await retriever.ainvoke(QUERY, query_filter=models.Filter(must=[year]))
    assert found.metadata["_key"] == "gcc"
    [found] = retriever.invoke("E-4711", query_filter=None, k=1)
    assert found.metadata["_key"] == "rain"
    assert "fused_score" not in retriever.invoke(QUERY, hybrid=False)[0].metadata
    one, other = (
        retriever.invoke(QUERY, hybrid=False, k=1, instruction=task)[0].metadata
        for task in (None, "Find the compiler")
    )
    assert one["retrieval_score"] != other["retrieval_score"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"top_k": 3}, "`top_k` is unknown; a query can change k, hybrid"),
        ({"k": 0}, "`k` is 0; pass a whole number"),
        ({"per_document": "all"}, "`per_document` is 'all'; pass a whole number"),
        ({"candidates": 1}, "`candidates` is 1"),
        ({"prefetch": 1}, "`prefetch` is 1"),
    ],
)
def test_wrong_changes_are_refused(client, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        opened(client, reranker=Reranker("tiny")).invoke(QUERY, **changes)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"kk": 3}, {"searcher": "notes"}])
def test_wrong_settings_are_refused(client, wrong):
    searcher = QdrantSearcher(client, "notes", Embedder("tiny"))
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        QuernstoneRetriever(**{"searcher": searcher, **wrong})


async def test_callbacks_are_called(client):
    seen = []

    class Recorder(BaseCallbackHandler):
        def on_retriever_start(self, serialized, query, **kwargs):
            seen.append(("start", query, kwargs["tags"]))

        def on_retriever_end(self, documents, **kwargs):
            seen.append(("end", len(documents)))

        def on_retriever_error(self, error, **kwargs):
            seen.append(("error", type(error).__name__))

    retriever = opened(client, k=2, tags=["mine"])
    config = {"callbacks": [Recorder()]}
    retriever.invoke(QUERY, config)
    await retriever.ainvoke(QUERY, config)
    assert seen == [("start", QUERY, ["mine"]), ("end", 2)] * 2
    with pytest.raises(ConfigError):
        retriever.invoke(QUERY, config, k=0)
    assert seen[-1] == ("error", "ConfigError")


def test_numbers_of_the_wrong_class_say_what_to_pass(client):
    for name in ("k", "candidates", "prefetch", "per_document", "group_size", "fetch_k"):
        for wrong in (0, "many", 0.5, True):
            with pytest.raises(ValidationError, match=f"`{name}` is {wrong!r}; pass a whole numb"):
                opened(client, **{name: wrong})
    with pytest.raises(ConfigError, match="`k` is 'many'; pass a whole number"):
        opened(client).invoke(QUERY, k="many")


async def test_composes_with_chains(client):
    retriever = opened(client)
    reranker = QuernstoneReranker(model="tiny", top_n=1)
    retrieve = {"query": RunnablePassthrough(), "documents": retriever}
    chain = retrieve | reranker.as_runnable() | RunnableLambda(lambda d: d[0].metadata["_key"])
    assert chain.invoke(QUERY) == "mill"
    assert await chain.ainvoke(QUERY) == "mill"
    assert chain.batch([QUERY, QUERY]) == ["mill", "mill"]
    compressed = ContextualCompressionRetriever(base_retriever=retriever, base_compressor=reranker)
    [best] = compressed.invoke(QUERY)
    assert best.metadata["_key"] == "mill"
    assert best.metadata["relevance_score"] > 0
    assert await retriever.abatch([QUERY] * 5) == [retriever.invoke(QUERY)] * 5


def test_without_the_extra_the_import_works_and_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "quernstone_qdrant", None)
    for construct in (
        lambda: QuernstoneRetriever(searcher=object()),
        lambda: QuernstoneRetriever.from_collection(None, "notes", None),
    ):
        with pytest.raises(MissingExtraError, match=r'"langchain-quernstone\[qdrant\]"'):
            construct()


async def test_a_retriever_follows_a_migration_to_another_model(tmp_path):
    client, shorter = collection(layout="langchain"), Embedder("tiny", dimensions=32)
    migration = QdrantMigration(
        client, "notes", shorter, alias="live", layout="plain", state_folder=tmp_path, sample=1
    )
    assert not migration.run(switch=False).switched
    retriever = QuernstoneRetriever.from_collection(
        client,
        "live",
        QuernstoneEmbeddings(model="tiny"),
        embedder_for=lambda recorded: Embedder("tiny", dimensions=recorded.dimensions),
        query_filter={"year": 1200},
    )
    for change, dimensions in ((migration.run, 32), (migration.rollback, 256)):
        change()
        for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
            assert [document.metadata["_key"] for document in found] == ["mill", "oven"]
        assert retriever.searcher.embedder.dimensions == dimensions
    client.close()


def test_options_of_searches(client):
    searcher = opened(client).searcher
    settings = {"k": 3, "search_type": "mmr", "lambda_mult": 0.25, "fetch_k": 3}
    chosen = searcher.search(QUERY, 3, diversity=models.Mmr(diversity=0.75, candidates_limit=3))
    assert [found.id for found in opened(client, **settings).invoke(QUERY)] == [
        hit.id for hit in chosen
    ]
    assert [found.id for found in opened(client).invoke(QUERY, **settings)] == [
        hit.id for hit in chosen
    ]
    years = [found.metadata["year"] for found in opened(client, group_by="year").invoke(QUERY)]
    assert sorted(years) == [1200, 1987, 2026]
    assert len(opened(client, per_document=1, k=9).invoke(QUERY)) == len(RECORDS)
    boost = Popularity("year", half=1, weight=9)
    boosted = opened(client, boost=boost).invoke(QUERY)
    assert boosted[0].metadata["boosted_score"] > 9
    feedback = Feedback(a=1.0, b=1.0, c=1.0, seeds=2)
    judged = opened(client, reranker=Reranker("tiny"), feedback=feedback, k=4)
    assert len(judged.invoke(QUERY)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_mult": 0.5}, "`lambda_mult` needs `search_type='mmr'`"),
        ({"fetch_k": 5}, "`fetch_k` needs `search_type='mmr'`"),
        ({"search_type": "best"}, "`search_type` is 'best'; it must be"),
        ({"search_type": "mmr", "lambda_mult": 2}, "`lambda_mult` is 2; it must be a number"),
        ({"search_type": "mmr", "lambda_mult": "x"}, "`lambda_mult` is 'x'; it must be a number"),
        ({"search_type": "mmr", "fetch_k": 0}, "`fetch_k` is 0; pass a whole number"),
        ({"search_type": "mmr", "per_document": 1}, "`diversity` and `per_document` exclude"),
    ],
    ids=["lambda", "fetch", "type", "range", "text", "count", "groups"],
)
def test_options_that_would_be_ignored_are_refused(client, changes, message):
    with pytest.raises(ConfigError, match=message):
        opened(client).invoke(QUERY, **changes)

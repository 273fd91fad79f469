"""`QuernstoneRetriever` over collections that a `QdrantLoader` filled."""

import sys

import pytest
from llama_index.core import QueryBundle
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from qdrant_client import QdrantClient, models

from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank
from llama_index.retrievers.quernstone import QuernstoneRetriever
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
    {"id": "mill", "text": "A quern is a stone hand mill for grain.", "year": 1200, "tags": ["a"]},
    {"id": "rain", "text": "It rains in Bergen. Error E-4711 says so.", "year": 2026},
    {"id": "oven", "text": "Bread is baked in an oven.", "year": 1200, "tags": ["a", "b"]},
    {"id": "gcc", "text": "A compiler for C.", "year": 1987, "on": "1987-05-23T00:00:00Z"},
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
    embed_model = QuernstoneEmbedding(model_name="tiny")
    return QuernstoneRetriever.from_collection(client, "notes", embed_model, **settings)


def keys(nodes):
    return [node.node.ref_doc_id for node in nodes]


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize("reranked", [False, True])
async def test_nodes_are_the_hits_of_the_searcher(clients, name, reranked):
    reranker = Reranker("tiny") if reranked else None
    retriever = opened(clients[name], reranker=reranker, similarity_top_k=3)
    hits = QdrantSearcher(clients[name], "notes", Embedder("tiny"), reranker).search(QUERY, 3)
    for found in (retriever.retrieve(QUERY), await retriever.aretrieve(QUERY)):
        assert keys(found) == [hit.key for hit in hits]
        for scored, hit in zip(found, hits, strict=True):
            assert type(scored.node) is TextNode
            assert scored.node_id == hit.id
            assert scored.text == hit.text
            assert scored.metadata == hit.metadata
            best = hit.rerank_score or hit.fused_score or hit.score
            assert scored.score == pytest.approx(best, abs=1e-6)
    assert keys(found)[0] == "mill"


@pytest.mark.parametrize("name", ["hybrid", "langchain", "plain"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([("year", "==", 1200)], {"mill", "oven"}),
        ([("year", "!=", 1200)], {"rain", "gcc"}),
        ([("year", ">", 1987)], {"rain"}),
        ([("year", ">=", 1987)], {"rain", "gcc"}),
        ([("year", "<", 1987.5)], {"mill", "oven", "gcc"}),
        ([("year", "<=", 1200)], {"mill", "oven"}),
        ([("year", "in", [1200, 1987])], {"mill", "oven", "gcc"}),
        ([("year", "nin", [1200, 1987])], {"rain"}),
        ([("tags", "any", ["b", "c"])], {"oven"}),
        ([("tags", "all", ["a", "b"])], {"oven"}),
        ([("tags", "contains", "a")], {"mill", "oven"}),
        ([("tags", "is_empty", None)], {"rain", "gcc"}),
        ([("on", ">", "1980-01-01")], {"gcc"}),
        ([("year", "==", 1200), ("tags", "contains", "b")], {"oven"}),
    ],
)
def test_metadata_filters(clients, name, filters, expected):
    parts = [MetadataFilter(key=k, operator=o, value=v) for k, o, v in filters]
    retriever = opened(clients[name], similarity_top_k=9, filters=MetadataFilters(filters=parts))
    assert set(keys(retriever.retrieve(QUERY))) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("and", set()), ("or", {"mill", "oven", "gcc"}), ("not", {"rain"})],
)
def test_conditions_of_filters(client, condition, expected):
    parts = [MetadataFilter(key="year", value=year) for year in (1200, 1987)]
    filters = MetadataFilters(filters=parts, condition=condition)
    nested = MetadataFilters(filters=[filters])
    for given in (filters, nested):
        retriever = opened(client, similarity_top_k=9, filters=given)
        assert set(keys(retriever.retrieve(QUERY))) == expected


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (("year", ">", "soon"), "`>` on field 'year' needs a number or an ISO date, not 'soon'"),
        (("year", "in", 5), "needs a list"),
        (("text", "text_match_insensitive", "x"), "is not supported.*use `text_match`"),
    ],
)
def test_filters_that_cannot_work_are_refused(client, part, reason):
    filters = MetadataFilters(
        filters=[MetadataFilter(key=part[0], operator=part[1], value=part[2])]
    )
    with pytest.raises(ConfigError, match=reason):
        opened(client, filters=filters)


def test_other_filters(client):
    assert set(keys(opened(client, filters={"year": 1200}).retrieve(QUERY))) == {"mill", "oven"}
    year = models.FieldCondition(key="metadata.year", match=models.MatchValue(value=1987))
    retriever = opened(client, filters=models.Filter(must=[year]))
    assert keys(retriever.retrieve(QUERY)) == ["gcc"]


async def test_a_query_bundle_brings_its_own_vector(client):
    """As `VectorIndexRetriever` searches: by `embedding`, or by the mean of several strings."""
    embedder = Embedder("tiny")
    retriever = opened(client, hybrid=False, similarity_top_k=1)
    hypothetical = QueryBundle(QUERY, custom_embedding_strs=["a compiler for C", "GCC compiles C"])
    ready = QueryBundle(QUERY, embedding=embedder.embed_query("a compiler for C").tolist())
    for bundle in (hypothetical, ready):
        assert (
            keys(retriever.retrieve(bundle)) == keys(await retriever.aretrieve(bundle)) == ["gcc"]
        )
    with pytest.raises(ConfigError, match="the query has an image"):
        retriever.retrieve(QueryBundle(QUERY, image_path="mill.png"))


async def test_events_and_callbacks(client):
    seen = []

    class Recorder(BaseEventHandler):
        def handle(self, event, **_):
            seen.append(event.class_name())

    recorder, debug = Recorder(), LlamaDebugHandler(print_trace_on_end=False)
    get_dispatcher().add_event_handler(recorder)
    retriever = opened(client, callback_manager=CallbackManager([debug]))
    retriever.retrieve(QUERY)
    await retriever.aretrieve(QUERY)
    get_dispatcher().event_handlers.remove(recorder)
    assert seen == ["RetrievalStartEvent", "RetrievalEndEvent"] * 2
    pairs = debug.get_event_pairs(CBEventType.RETRIEVE)
    assert [len(end.payload["nodes"]) for _, end in pairs] == [2, 2]


def test_in_a_query_engine(client):
    engine = RetrieverQueryEngine.from_args(
        opened(client, similarity_top_k=4),
        llm=MockLLM(),
        node_postprocessors=[QuernstoneRerank(model="tiny", top_n=1)],
    )
    [best] = engine.query(QUERY).source_nodes
    assert best.node.ref_doc_id == "mill"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"similarity_top_k": 0}, "`similarity_top_k` is 0; pass a whole number of at least 1"),
        ({"similarity_top_k": None}, "`similarity_top_k` is None; pass a whole number"),
        ({"candidates": "many"}, "`candidates` is 'many'; pass a whole number"),
        ({"prefetch": 0.5}, "`prefetch` is 0.5; pass a whole number"),
        ({"per_document": 0}, "`per_document` is 0; pass a whole number"),
        ({"group_size": "all"}, "`group_size` is 'all'; pass a whole number"),
        ({"searcher": "notes"}, "searcher"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(client, wrong, reason):
    searcher = QdrantSearcher(client, "notes", Embedder("tiny"))
    with pytest.raises(ConfigError, match=reason):
        QuernstoneRetriever(**{"searcher": searcher, **wrong})


def test_without_the_extra_the_import_works_and_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "quernstone_qdrant", None)
    for construct in (
        lambda: QuernstoneRetriever(object()),
        lambda: QuernstoneRetriever.from_collection(None, "notes", None),
    ):
        with pytest.raises(MissingExtraError, match=r'"llama-index-quernstone\[qdrant\]"'):
            construct()


async def test_a_retriever_follows_a_migration_to_another_model(tmp_path):
    """With metadata filters, whose paths differ in the new layout."""
    client, shorter = collection(layout="langchain"), Embedder("tiny", dimensions=32)
    parts = [MetadataFilter(key="year", value=1200)]
    embed_model = QuernstoneEmbedding(model_name="tiny")
    migration = QdrantMigration(
        client, "notes", shorter, alias="live", layout="plain", state_folder=tmp_path, sample=1
    )
    assert not migration.run(switch=False).switched
    retriever = QuernstoneRetriever.from_collection(
        client,
        "live",
        embed_model,
        embedder_for=lambda recorded: Embedder("tiny", dimensions=recorded.dimensions),
        filters=MetadataFilters(filters=parts),
        similarity_top_k=9,
    )
    bundle = QueryBundle(QUERY, custom_embedding_strs=["a hand mill"])
    for change, dimensions in ((migration.run, 32), (migration.rollback, 256)):
        change()
        assert set(keys(retriever.retrieve(bundle))) == {"mill", "oven"}
        assert keys(await retriever.aretrieve(bundle))[0] == "mill"
        assert retriever.searcher.embedder.dimensions == dimensions
    client.close()


def test_options_of_searches(client):
    searcher = opened(client).searcher
    chosen = searcher.search(QUERY, 3, diversity=0.75)
    for mode in ("mmr", VectorStoreQueryMode.MMR):
        settings = {"vector_store_query_mode": mode, "mmr_threshold": 0.25}
        nodes = opened(client, similarity_top_k=3, **settings).retrieve(QUERY)
        assert [node.node_id for node in nodes] == [hit.id for hit in chosen]
    hybrid = opened(client, vector_store_query_mode="hybrid").retrieve(QUERY)
    assert [node.score for node in hybrid] == [
        hit.fused_score for hit in searcher.search(QUERY, 2, hybrid=True)
    ]
    years = opened(client, similarity_top_k=9, group_by="year").retrieve(QUERY)
    assert sorted(node.metadata["year"] for node in years) == [1200, 1987, 2026]
    assert len(opened(client, similarity_top_k=9, per_document=1).retrieve(QUERY)) == len(RECORDS)
    boost = Popularity("year", half=1, weight=9)
    assert opened(client, boost=boost).retrieve(QUERY)[0].score > 9
    feedback = Feedback(a=1.0, b=1.0, c=1.0, seeds=2)
    judged = opened(client, reranker=Reranker("tiny"), feedback=feedback, similarity_top_k=4)
    assert len(judged.retrieve(QUERY)) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mmr_threshold": 0.5}, "`mmr_threshold` needs `vector_store_query_mode='mmr'`"),
        ({"vector_store_query_mode": "sparse"}, "is 'sparse'; it must be one of default, hybrid"),
        ({"vector_store_query_mode": "hybrid", "hybrid": False}, "exclude each other"),
        ({"vector_store_query_mode": "mmr", "mmr_threshold": 2}, "`mmr_threshold` is 2; it must"),
        ({"vector_store_query_mode": "mmr", "mmr_threshold": "x"}, "`mmr_threshold` is 'x'; it"),
    ],
    ids=["threshold", "mode", "hybrid", "range", "text"],
)
def test_modes_that_cannot_work_are_refused(client, settings, message):
    with pytest.raises(ConfigError, match=message):
        opened(client, **settings)

"""Collections of every preset and layout, loaded and searched on the embedded client."""

import asyncio
import dataclasses
import threading

import numpy as np
import pytest
from qdrant_client import models

from quernstone import Embedder
from quernstone.engines.torch.engine import TorchEngine
from quernstone.errors import ConfigError
from quernstone_qdrant import CollectionError, QdrantLoader, QdrantSearcher
from quernstone_qdrant.documents import bm25
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.settings import PREFIX, PRESETS, CollectionSettings
from quernstone_qdrant.targets import as_target

WORDS = "stone mill grain rain roof bread hand water flour wheel wind corn oven".split()
RNG = np.random.default_rng(7)
RECORDS = [
    {
        "id": f"d{n}",
        "text": " ".join(RNG.choice(WORDS, size=RNG.integers(3, 12))),
        "year": 1200 + n % 3,
        "topic": ["tools", "weather"][n % 2],
    }
    for n in range(120)
]
QUERIES = ["stone mill", "rain on the roof", "flour from corn for bread", "wind wheel water"]


@pytest.fixture
def load(client, embedder):
    def load(collection="docs", records=RECORDS, **options):
        loader = QdrantLoader(client, collection, embedder, **options)
        loader.load(records)
        return QdrantSearcher(client, collection, embedder)

    return load


def exact(embedder, query, records=RECORDS):
    """Cosines of all records by id, best first, computed here."""
    matrix = embedder.embed_documents([record["text"] for record in records])
    cosines = matrix @ embedder.embed_query(query)
    order = np.argsort(-cosines, kind="stable")
    return {records[i]["id"]: float(cosines[i]) for i in order}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_searched_without_being_named(load, embedder, preset):
    searcher = load(preset=preset)
    assert searcher.provenance.settings == PRESETS[preset].resolved(64)
    for query in QUERIES:
        expected = exact(embedder, query)
        # no approximation in here: the embedded client compares all, and the prefetch is all
        hits = searcher.search(query, limit=10, prefetch=120)
        tolerance = 0.02 if preset == "uint8" else 1e-3
        np.testing.assert_allclose(
            [hit.score for hit in hits], list(expected.values())[:10], atol=tolerance
        )
        np.testing.assert_allclose(
            [hit.score for hit in hits], [expected[hit.key] for hit in hits], atol=tolerance
        )
        assert [hit.fused_score for hit in hits] == [None] * 10
        assert [hit.retrieval_rank for hit in hits] == list(range(1, 11))


@pytest.mark.parametrize("preset", ["mrl", "binary", "turbo", "uint8"])
def test_edge_finds_the_same_with_an_index_and_quantized_vectors(tmp_path, embedder, preset):
    from quernstone_qdrant import EdgeTarget

    target = EdgeTarget(tmp_path / "edge", "docs")
    report = QdrantLoader(target, "docs", embedder, preset=preset, hybrid=True).load(RECORDS)
    assert (report.embedded, report.ignored) == (len(RECORDS), ())
    searcher = QdrantSearcher(target, "docs", embedder)
    for query in QUERIES:
        expected = exact(embedder, query)
        hits = searcher.search(query, limit=10, prefetch=120, hybrid=False)
        tolerance = 0.02 if preset == "uint8" else 1e-3
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, list(expected.values())[:10], atol=tolerance)
        # of the full vectors, whatever found them
        np.testing.assert_allclose(scores, [expected[hit.key] for hit in hits], atol=tolerance)
        (both,) = searcher.search(query, limit=1)
        assert both.score == pytest.approx(expected[both.key], abs=tolerance)
        assert 0 < both.fused_score < 2 / 60 + 1e-6
    target.close()


def test_two_stages_find_what_the_first_one_passes_on(client, load, embedder):
    searcher = load(preset=CollectionSettings(vector="dense", prefix=16))
    query = QUERIES[2]
    short = client.query_points(
        "docs", query=embedder.embed_query(query)[:16].tolist(), using=PREFIX, limit=12
    ).points
    passed = {point.payload["doc_id"] for point in short}
    expected = [key for key in exact(embedder, query) if key in passed]
    hits = searcher.search(query, limit=12, prefetch=12)
    assert {hit.key for hit in hits} == set(expected)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    whole = [hit.key for hit in searcher.search(query, limit=12, prefetch=120)]
    assert whole != [hit.key for hit in hits]  # the short vectors do lose something here


def rrf(*orders, k=60):
    """Reciprocal rank fusion from its definition: the sum of 1/(k + place), places from 0."""
    scores = {}
    for order in orders:
        for place, key in enumerate(order):
            scores[key] = scores.get(key, 0) + 1 / (k + place)
    return scores


def bm25_scores(query, encode, records=RECORDS):
    """BM25 of all records that share a term, best first: sum of IDF times the stored weight."""
    rows = [encode(record["text"]) for record in records]
    scores = {}
    for term in dict.fromkeys(bm25.encode_query(bm25.Bm25Text(query, "english", 2)).indices):
        holders = [i for i, row in enumerate(rows) if term in row]
        idf = np.log((len(rows) - len(holders) + 0.5) / (len(holders) + 0.5) + 1)
        for i in holders:
            key = records[i]["id"]
            scores[key] = scores.get(key, 0) + idf * rows[i][term]
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def sparse_row(text):
    row = bm25.encode_document(bm25.Bm25Text(text, "english", 2))
    return dict(zip(row.indices, row.values, strict=True))


def without_ties(scores):
    """The keys in order, as far as the order is certain."""
    values = list(scores.values())
    return [
        key
        for i, key in enumerate(scores)
        if all(abs(values[i] - values[j]) > 1e-6 for j in (i - 1, i + 1) if 0 <= j < len(values))
    ]


def test_hybrid_search_is_the_fusion_of_both_orders(client, load, embedder):
    # no two of the same length, so that no two score the same
    records = []
    for n in range(40):
        words = WORDS[n % 13 :] * (n % 3 + 1)
        filler = ["filler"] * (60 + n - len(words))
        records.append({"id": f"d{n}", "text": " ".join([*words, *filler])})
    searcher = load(records=records, hybrid=True)
    assert searcher.provenance.settings.bm25 == "sparse"
    for query in QUERIES:
        dense = exact(embedder, query, records)
        words = bm25_scores(query, sparse_row, records)
        assert without_ties(words) == list(words)
        fused = rrf(list(dense), list(words))
        hits = searcher.search(query, limit=40)
        assert len(hits) == 40
        np.testing.assert_allclose(
            [hit.fused_score for hit in hits], sorted(fused.values(), reverse=True), rtol=1e-6
        )
        for hit in hits:
            assert hit.fused_score == pytest.approx(fused[hit.key], rel=1e-6)
            assert hit.score == pytest.approx(dense[hit.key], abs=1e-5)
        by_meaning = searcher.search(query, limit=40, hybrid=False)
        assert [hit.key for hit in by_meaning] == list(dense)
        assert by_meaning[0].fused_score is None


def test_words_find_what_meaning_misses(load, embedder):
    records = [*RECORDS, {"id": "code", "text": "The error E-4711 says nothing. " * 3}]
    # the embedder is made to know nothing about this word
    embedder.embed_query = lambda text, instruction=None: embedder._vector("bread oven")
    hybrid = load(records=records, hybrid=True)
    assert "code" in {hit.key for hit in hybrid.search("what is E-4711?", limit=5)}
    dense = hybrid.search("what is E-4711?", limit=5, hybrid=False)
    assert "code" not in {hit.key for hit in dense}


def test_a_text_index_finds_words(client, load):
    searcher = load(preset=CollectionSettings(bm25="text"))
    hits = searcher.search("oven", limit=5)
    assert all("oven" in hit.text for hit in hits)
    found = client.query_points(
        "docs", query=models.TextQuery(text="oven"), using="page_content", limit=200
    ).points
    assert {hit.id for hit in hits} <= {point.id for point in found}


def test_a_text_of_stop_words_is_stored_and_such_a_query_searches_by_meaning(load):
    searcher = load(records=[*RECORDS, {"id": "stop", "text": "the of and"}], hybrid=True)
    assert [hit.key for hit in searcher.search("the of and", limit=1)] == ["stop"]


def test_every_language_has_an_encoder():
    for language in bm25.LANGUAGES:
        assert len(bm25.encode_query(bm25.Bm25Text("E-4711", language, 2)).indices) > 0


def test_an_unknown_language_makes_no_collection(client, load):
    for kind in ("sparse", "text"):
        with pytest.raises(ConfigError, match="`language` is 'klingon'; it must be one of arabic,"):
            load(preset=CollectionSettings(bm25=kind, language="klingon"))
    assert not client.collection_exists("docs")


def test_a_hybrid_pair(load, embedder):
    searcher = load(preset=dataclasses.replace(PRESETS["mrl"], bm25="auto"))
    hits = searcher.search(QUERIES[0], limit=5, query_filter={"year": 1201})
    assert {hit.metadata["year"] for hit in hits} == {1201}
    expected = exact(embedder, QUERIES[0])
    np.testing.assert_allclose(
        [hit.score for hit in hits], [expected[hit.key] for hit in hits], atol=1e-5
    )
    assert hits[0].fused_score > hits[-1].fused_score > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", ["dense", "mrl"])
def test_every_layout_is_searched_and_filtered_alike(load, embedder, layout, preset):
    searcher = load(preset=preset, layout=layout)
    (hit,) = searcher.search("stone mill", limit=1, query_filter={"topic": "tools", "year": 1201})
    expected = exact(embedder, "stone mill")
    by_id = {record["id"]: record for record in RECORDS}
    allowed = [
        key for key in expected if (by_id[key]["topic"], by_id[key]["year"]) == ("tools", 1201)
    ]
    assert hit.score == pytest.approx(expected[allowed[0]], abs=1e-5)
    record = by_id[hit.key]
    assert hit.text == record["text"]
    assert hit.metadata == {"year": 1201, "topic": "tools", "chunk": 0}


def test_a_collection_remembers_its_settings(client, load, embedder, stored):
    load(preset="mrl", layout="plain")
    before = stored(client, "docs")
    again = QdrantLoader(client, "docs", embedder)
    assert again.load(RECORDS).skipped == len(RECORDS)
    same = QdrantLoader(client, "docs", embedder, preset="mrl", layout="plain")
    assert same.load(RECORDS).embedded == 0
    assert stored(client, "docs").keys() == before.keys()
    assert {"_node_content", "page_content"}.isdisjoint(next(iter(before.values()))[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"layout": "langchain"},
            "created with layout='universal', but layout='langchain' is requested",
        ),
        (
            {"preset": "float16"},
            "created with datatype='float32', but datatype='float16' is requested",
        ),
        ({"hybrid": True}, "created with bm25=None, but bm25='auto' is requested"),
    ],
)
def test_other_settings_are_refused(load, client, embedder, overrides, message):
    load()
    with pytest.raises(CollectionError, match=message):
        QdrantLoader(client, "docs", embedder, **overrides)


def test_a_prepared_collection_with_a_named_vector_is_adopted(client, load, embedder):
    named = {"mine": models.VectorParams(size=64, distance=models.Distance.COSINE)}
    client.create_collection("docs", vectors_config=named)
    searcher = load(preset=CollectionSettings(vector="mine"))
    expected = exact(embedder, "oven")
    assert searcher.search("oven", limit=1)[0].score == pytest.approx(max(expected.values()))


def test_hybrid_search_needs_words(load):
    with pytest.raises(ConfigError, match="'docs' has no BM25; load it with `hybrid=True`"):
        load().search("mill", hybrid=True)


def test_a_prefetch_of_less_than_is_fetched_is_refused(load):
    with pytest.raises(ConfigError, match="`prefetch` is 4; it must be at least 5"):
        load().search("mill", limit=5, prefetch=4)


def scores_of(hits, name):
    # not the hits themselves: texts of the same words are equally near, and in any order
    return [pytest.approx(getattr(hit, name), abs=1e-6) for hit in hits]


async def test_asynchronous_searches_equal_the_others(load):
    searcher = load(preset="mrl", hybrid=True)
    found = await asyncio.gather(*(searcher.asearch(query, limit=5) for query in QUERIES))
    for query, hits in zip(QUERIES, found, strict=True):
        expected = searcher.search(query, limit=5)
        assert [hit.fused_score for hit in hits] == scores_of(expected, "fused_score")


async def test_concurrent_callers_meet_in_the_embedder_and_the_reranker(
    client, load, embedder, reranker
):
    load()
    waiting = {"embedder": 0, "reranker": 0}
    complete = {name: asyncio.Event() for name in waiting}

    async def meet(name):
        """Goes on when all queries are here, so that one batch could hold them."""
        waiting[name] += 1
        if waiting[name] == len(QUERIES):
            complete[name].set()
        await asyncio.wait_for(complete[name].wait(), timeout=10)

    class Meeting(type(embedder)):
        async def aembed_query(self, text, instruction=None):
            await meet("embedder")
            return self.embed_query(text)

    class Panel(type(reranker)):
        async def arerank(self, *arguments):
            await meet("reranker")
            return self.rerank(*arguments)

    searcher = QdrantSearcher(client, "docs", Meeting(), Panel())
    found = await asyncio.gather(*(searcher.asearch(query, limit=3) for query in QUERIES))
    for query, hits in zip(QUERIES, found, strict=True):
        expected = searcher.search(query, limit=3)
        assert [hit.rerank_score for hit in hits] == scores_of(expected, "rerank_score")


async def test_concurrent_searches_are_embedded_in_few_batches(client, checkpoints, monkeypatch):
    run, gate, sizes = TorchEngine.run, threading.Event(), []

    def counting(self, batch, **options):
        sizes.append(len(batch))
        gate.wait(10)
        return run(self, batch, **options)

    with Embedder(str(checkpoints("embedding-0.6b")), dtype="float32") as embedder:
        QdrantLoader(client, "docs", embedder).load(RECORDS[:5])
        searcher = QdrantSearcher(client, "docs", embedder)
        monkeypatch.setattr(TorchEngine, "run", counting)
        waiting = [asyncio.ensure_future(searcher.asearch(f"query {n}")) for n in range(40)]
        await asyncio.sleep(0)  # every one of them is submitted now
        gate.set()
        found = await asyncio.gather(*waiting)
    assert [len(hits) for hits in found] == [5] * 40
    assert sum(sizes) == 40
    assert len(sizes) <= 2  # what the worker had begun with, and all that came meanwhile


async def test_a_target_for_many_threads_does_not_block_the_loop(client, load, embedder):
    load()
    target = as_target(client, "docs")
    target.writers = 4
    loop = asyncio.get_running_loop()
    answer = asyncio.Event()
    query = target.query

    def slow(request):
        # set from the loop: would never be, if the loop waited for this
        asyncio.run_coroutine_threadsafe(answer.wait(), loop).result(timeout=10)
        return query(request)

    target.query = slow
    search = asyncio.create_task(QdrantSearcher(target, "docs", embedder).asearch("oven", limit=2))
    await asyncio.sleep(0)
    answer.set()
    assert len(await search) == 2

"""Relevance feedback, on every target."""

import asyncio
from functools import partial

import numpy as np
import pytest
from tests.qdrant.searching.conftest import QUERY, RECORDS, cosine, keys

from quernstone.errors import ConfigError
from quernstone_qdrant import Feedback, QdrantLoader, QdrantSearcher


class Judge:
    """Likes documents with a word; counts what it reads."""

    def __init__(self, word):
        self.word, self.read = word, []

    def rerank(self, query, documents, top_n=None, instruction=None):
        from quernstone.types import RankedDocument

        self.read.append(list(documents))
        scores = [0.9 if self.word in text else 0.1 for text in documents]
        order = sorted(range(len(documents)), key=lambda n: -scores[n])
        return [RankedDocument(n, scores[n]) for n in order[:top_n]]

    async def arerank(self, query, documents, top_n=None, instruction=None):
        return self.rerank(query, documents, top_n, instruction)


WEATHER = [
    *({"id": f"g{n}", "text": f"Grain and mill {n}."} for n in range(30)),
    {"id": "seed", "text": "Grain and mill in the storm, wind and hail."},
    *({"id": f"w{n}", "text": f"Storm, wind and hail {n} at night."} for n in range(4)),
]


@pytest.mark.parametrize("blocking", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("hybrid", [False, True], ids=["dense", "hybrid"])
def test_feedback_finds_what_the_first_search_misses(target, embedder, hybrid, blocking):
    QdrantLoader(target, "docs", embedder, hybrid=hybrid, preset="mrl").load(WEATHER)
    judge = Judge("hail")
    searcher = QdrantSearcher(target, "docs", embedder, judge)
    query, options = "grain and mill in the night", {"limit": 5, "candidates": 20}
    plain = searcher.search(query, **options, hybrid=False, prefetch=25)
    judge.read.clear()
    search = partial(searcher.search, query, **options, prefetch=25)
    if not blocking:
        search = lambda **more: asyncio.run(  # noqa: E731
            searcher.asearch(query, **options, prefetch=25, **more)
        )
    hits = search(feedback=Feedback(a=1.0, b=1.0, c=1.0, seeds=4))
    seeds, others = judge.read
    assert len(seeds) == 4
    assert len(others) == 16
    assert not set(seeds) & set(others)
    assert [hit.rerank_score for hit in hits] == sorted(
        (hit.rerank_score for hit in hits), reverse=True
    )
    good = [hit for hit in hits if hit.rerank_score > 0.5]
    if not hybrid:
        assert len(good) == 5 > sum(hit.rerank_score > 0.5 for hit in plain)
    for hit in hits:
        assert hit.score == pytest.approx(cosine(embedder, query, hit), abs=1e-5)
    assert len({hit.retrieval_rank for hit in hits}) == len(hits)
    assert search(feedback=Feedback(a=1, b=1, c=1), query_filter={"chunk": 7}) == []


def test_feedback_for_several_queries_is_two_requests(either_client, shared_server, embedder):
    QdrantLoader(either_client, "docs", embedder).load(WEATHER)
    searcher = QdrantSearcher(either_client, "docs", embedder, Judge("hail"))
    feedback = Feedback(a=1.0, b=1.0, c=1.0)
    queries = ["grain and mill", "night", "wind"]
    each = [searcher.search(query, 5, feedback=feedback) for query in queries]
    shared_server.requests.clear()
    assert searcher.search_many(queries, 5, feedback=feedback) == each
    searches = [one.path for one in shared_server.requests if "/query" in one.path]
    assert searches == ["/collections/docs/points/query/batch"] * 2


def test_feedback_never_mixes_two_collections(either_client, embedder):
    """The collection is replaced while the reranker reads the first hits."""
    QdrantLoader(either_client, "docs", embedder).load(WEATHER)
    replaced = [{"id": f"n{n}", "text": f"Another grain and mill {n}."} for n in range(9)]

    class Replacing(Judge):
        def rerank(self, query, documents, top_n=None, instruction=None):
            if not self.read:
                either_client.delete_collection("docs")
                QdrantLoader(either_client, "docs", embedder).load(replaced)
            return super().rerank(query, documents, top_n, instruction)

    judge = Replacing("Another")
    searcher = QdrantSearcher(either_client, "docs", embedder, judge)
    hits = searcher.search("grain and mill", 20, feedback=Feedback(a=1.0, b=1.0, c=1.0))
    assert sorted(keys(hits)) == sorted(record["id"] for record in replaced)
    assert [len(texts) for texts in judge.read] == [5, 5, 4]


def test_groups_limit_both_searches_of_feedback(loaded, embedder, place):
    if place == "edge":
        pytest.skip("Edge has no groups")
    searcher = QdrantSearcher(loaded, "docs", embedder, Judge("mill"))
    feedback = Feedback(a=1.0, b=1.0, c=1.0, seeds=2)
    hits = searcher.search(QUERY, feedback=feedback, per_document=1)
    assert sorted(keys(hits)) == ["bread", "long", "mill", "oven", "rain"]
    many = searcher.search(QUERY, feedback=feedback, group_by="topic", group_size=2)
    assert max(np.unique([hit.group for hit in many], return_counts=True)[1]) == 2


def test_feedback_leaves_candidates_for_the_second_search(client, embedder, reranker):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    searcher = QdrantSearcher(client, "docs", embedder, reranker)
    with pytest.raises(ConfigError, match=r"`seeds` of `feedback` is 5; it must be below .* 5"):
        searcher.search(QUERY, 5, candidates=5, feedback=Feedback(a=1, b=1, c=1))


def test_an_old_server_is_not_asked_for_what_it_ignores(open_server, embedder, reranker):
    client = open_server("grpc", "1.16.0")
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    searcher = QdrantSearcher(client, "docs", embedder, reranker)
    with pytest.raises(ConfigError, match=r"`feedback` needs Qdrant 1.17; this server is 1.16.0"):
        searcher.search(QUERY, feedback=Feedback(a=1, b=1, c=1))
    assert searcher.search(QUERY)

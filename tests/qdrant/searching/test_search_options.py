"""Diversity, groups and boosts, on every target."""

from datetime import timedelta

import pytest
from qdrant_client import models
from tests.qdrant.searching.conftest import NOW, QUERY, RECORDS, cosine, keys

from quernstone.errors import ConfigError
from quernstone_qdrant import (
    Feedback,
    Popularity,
    QdrantLoader,
    QdrantSearcher,
    Recency,
    TargetError,
)

LAYOUTS = [{"preset": "mrl"}, {"preset": "scalar", "hybrid": True}]
LAYOUT_IDS = ["mrl", "scalar-hybrid"]


@pytest.fixture(params=LAYOUTS, ids=LAYOUT_IDS)
def searcher(target, embedder, request):
    QdrantLoader(target, "docs", embedder, chunk_size=40, **request.param).load(RECORDS)
    return QdrantSearcher(target, "docs", embedder)


def assert_mmr(embedder, every, hits, diversity):
    """Check that each hit was the best of those left, where several may be equally good."""
    vectors = {hit.id: embedder.embed_documents([hit.text])[0] for hit in every}
    similar = {point: vector @ embedder.embed_query(QUERY) for point, vector in vectors.items()}
    chosen = []
    for hit in hits:
        left = vectors.keys() - set(chosen)
        near = {n: max((vectors[n] @ vectors[c] for c in chosen), default=0) for n in left}
        value = {n: (1 - diversity) * similar[n] - diversity * near[n] for n in left}
        if not chosen:
            value = {n: similar[n] for n in left}
        assert value[hit.id] == pytest.approx(max(value.values()), abs=1e-5)
        chosen.append(hit.id)
    assert len(set(chosen)) == len(chosen)


def test_diversity_is_maximal_marginal_relevance(searcher, embedder):
    every = searcher.search(QUERY, 12)
    assert len(every) == 12
    for diversity in (0.35, 0.8):
        hits = searcher.search(QUERY, 4, diversity=diversity)
        assert len(hits) == 4
        assert_mmr(embedder, every, hits, diversity)
        assert [hit.score for hit in hits] == pytest.approx(
            [cosine(embedder, QUERY, hit) for hit in hits], abs=1e-5
        )
        assert {hit.fused_score for hit in hits} == {None}
    nearest = models.Mmr(diversity=0.8, candidates_limit=4)
    chosen = sorted(hit.score for hit in searcher.search(QUERY, 4, diversity=nearest))
    if every[0].fused_score is None:
        best = sorted(hit.score for hit in every[:4])  # several points may be as near as the last
        assert chosen == pytest.approx(best, abs=1e-5)
    assert keys(searcher.search(QUERY, 4, diversity=0.8)).count("long") < 4


def test_a_long_document_does_not_fill_the_list(searcher, place):
    if place == "edge":
        with pytest.raises(ConfigError, match=r"Edge cannot group hits: .* embedded client or a s"):
            searcher.search(QUERY, per_document=1)
        return
    every = searcher.search(QUERY, 12)
    assert keys(every)[:4].count("long") >= 3
    for size in (1, 2):
        expected = [
            hit.id for place, hit in enumerate(every) if keys(every)[:place].count(hit.key) < size
        ]
        hits = searcher.search(QUERY, 12, per_document=size)
        assert [hit.group for hit in hits] == keys(hits)
        assert sorted(keys(hits)) == sorted(every[n].key for n in map(_ids(every).index, expected))
        assert [hit.retrieval_rank for hit in hits] == list(range(1, len(hits) + 1))
        order = [hit.fused_score or hit.score for hit in hits]
        assert order == sorted(order, reverse=True)
        assert [hit.score for hit in hits] == pytest.approx(
            [every[_ids(every).index(hit.id)].score for hit in hits], abs=1e-6
        )
    assert len(searcher.search(QUERY, 3, per_document=1)) == 3


def _ids(hits):
    return [hit.id for hit in hits]


def test_groups_of_a_field(loaded, embedder, place):
    searcher = QdrantSearcher(loaded, "docs", embedder)
    if place == "edge":
        with pytest.raises(ConfigError, match="Edge cannot group hits"):
            searcher.search(QUERY, group_by="topic")
        return
    hits = searcher.search(QUERY, group_by="topic")
    assert sorted(hit.group for hit in hits) == ["food", "tools", "weather"]
    assert all(hit.group == hit.metadata["topic"] for hit in hits)
    topics = [hit.group for hit in searcher.search(QUERY, group_by="topic", group_size=2)]
    assert sorted(topics) == ["food", "food", "tools", "tools", "weather"]
    food = searcher.search(QUERY, group_by="topic", query_filter={"topic": "food"})
    assert [hit.group for hit in food] == ["food"]
    with pytest.warns(UserWarning, match="has the field 'tpic' of the search"):
        assert searcher.search(QUERY, group_by="tpic") == []


def test_the_reranker_reads_the_limited_groups(loaded, embedder, reranker, place):
    if place == "edge":
        pytest.skip("Edge has no groups")
    searcher = QdrantSearcher(loaded, "docs", embedder, reranker)
    hits = searcher.search(QUERY, per_document=1)
    assert keys(hits)[0] == "bread"
    assert sorted(keys(hits)) == ["bread", "long", "mill", "oven", "rain"]
    assert [hit.rerank_score for hit in hits] == sorted(
        (hit.rerank_score for hit in hits), reverse=True
    )


def test_recent_and_popular_documents_rise(searcher):
    plain = {hit.id: hit for hit in searcher.search(QUERY, 12)}
    boosts = [Recency("day", timedelta(days=30), weight=5), Popularity("views", 100, weight=2)]
    hits = searcher.search(QUERY, 12, boost=boosts)
    assert set(plain) == {hit.id for hit in hits}
    for hit in hits:
        views = hit.metadata.get("views", 0)
        base = hit.score if plain[hit.id].fused_score is None else plain[hit.id].fused_score * 30
        expected = base + 2 * views / (views + 100) + (5 if hit.key == "bread" else 0)
        ties = 0.05 if hit.score != base else 1e-3  # equal chunks have any order of ranks
        assert hit.boosted_score == pytest.approx(expected, abs=ties)
        assert hit.score == pytest.approx(plain[hit.id].score, abs=1e-5)
        assert hit.fused_score is None
    assert keys(hits)[0] == "bread"
    scores = [hit.boosted_score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert keys(searcher.search(QUERY, 3, boost=boosts[1])) == ["long"] * 3


def test_a_boost_halves_with_the_age(target, embedder):
    days = [0, 10, 20, 40]
    records = [
        {"id": str(age), "text": "Grain.", "day": (NOW - timedelta(days=age)).isoformat()}
        for age in days
    ]
    QdrantLoader(target, "docs", embedder).load([*records, {"id": "none", "text": "Grain."}])
    searcher = QdrantSearcher(target, "docs", embedder)
    hits = searcher.search("grain", boost=Recency("day", timedelta(days=10), weight=0.4))
    assert keys(hits) == ["0", "10", "20", "40", "none"]
    gained = [hit.boosted_score - hit.score for hit in hits]
    assert gained == pytest.approx([0.4, 0.2, 0.1, 0.025, 0.0], abs=1e-3)


FIELD = "metadata.views"
WEIGHTED = {
    "sum": models.SumExpression(sum=["$score", models.MultExpression(mult=[0.01, FIELD])]),
    "max": models.MaxExpression(max=[models.NegExpression(neg=FIELD), -50.0]),
    "min": models.MinExpression(min=[models.SqrtExpression(sqrt=FIELD), 5.0]),
    "pow": models.PowExpression(
        pow=models.PowParams(base=models.AbsExpression(abs=FIELD), exponent=0.5)
    ),
    "logs": models.SumExpression(
        sum=[
            models.Log10Expression(log10=models.SumExpression(sum=[FIELD, 1.0])),
            models.LnExpression(ln=models.ExpExpression(exp=2.0)),
            models.AcoshExpression(acosh=2.0),
        ]
    ),
    "decays": models.SumExpression(
        sum=[
            models.GaussDecayExpression(
                gauss_decay=models.DecayParamsExpression(x=FIELD, target=100.0, scale=50.0)
            ),
            models.LinDecayExpression(lin_decay=models.DecayParamsExpression(x=FIELD, scale=500.0)),
        ]
    ),
    "condition": models.MultExpression(
        mult=[
            2.0,
            models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="food")),
        ]
    ),
    "date": models.SumExpression(
        sum=[
            models.DatetimeExpression(datetime="2020-01-01T00:00:00Z"),
            models.NegExpression(neg=models.DatetimeKeyExpression(datetime_key="metadata.day")),
        ]
    ),
}


def test_every_target_computes_a_formula_equally(loaded, embedder, client):
    QdrantLoader(client, "same", embedder, chunk_size=40).load(RECORDS)
    searchers = [
        QdrantSearcher(loaded, "docs", embedder),
        QdrantSearcher(client, "same", embedder),
    ]
    defaults = {FIELD: 3.0, "metadata.day": "2010-01-01T00:00:00Z"}
    for formula in WEIGHTED.values():
        boost = models.FormulaQuery(formula=formula, defaults=defaults)
        here, same = (
            {(hit.key, hit.text): hit.boosted_score for hit in each.search(QUERY, 12, boost=boost)}
            for each in searchers
        )
        assert here == pytest.approx(same, rel=1e-5, abs=1e-5)
        assert len(set(here.values())) > 1


def test_a_field_that_cannot_be_computed_with_is_named(loaded, embedder, place):
    searcher = QdrantSearcher(loaded, "docs", embedder)
    with pytest.raises(TargetError, match="cancelled" if place == "edge" else "topic"):
        searcher.search(QUERY, boost=Popularity("topic", 1))
    with pytest.warns(UserWarning, match="has the field 'veiws' of the search"):
        assert searcher.search(QUERY, boost=Popularity("veiws", 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diversity": 1.5}, "`diversity` is 1.5; it must be a number from 0 to 1"),
        ({"diversity": True}, "`diversity` is True"),
        (
            {"diversity": models.Mmr(diversity=0.5, candidates_limit=3)},
            "`candidates_limit` is 3; it must be at least 10",
        ),
        ({"diversity": 0.5, "per_document": 1}, "`diversity` and `per_document` exclude"),
        ({"diversity": 0.5, "group_by": "topic"}, "`diversity` and `group_by` exclude each"),
        ({"diversity": 0.5, "boost": Popularity("views", 1)}, "`diversity` and `boost` exclude"),
        ({"group_by": "topic", "per_document": 1}, "`group_by` and `per_document` exclude"),
        ({"group_size": 2}, "`group_size` needs `group_by`"),
        ({"group_by": "topic", "group_size": 0}, "`group_size` is 0; it must be at least 1"),
        ({"per_document": 1.5}, "`per_document` is 1.5; it must be a whole number"),
        ({"boost": "views"}, "`boost` has the item 'v'; it must be a `Recency`"),
        ({"boost": []}, r"`boost` is \[\]; it must be"),
        ({"feedback": Feedback(a=1, b=1, c=1)}, "`feedback` needs a reranker"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_cannot_work(client, embedder, options, message):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    with pytest.raises(ConfigError, match=message):
        QdrantSearcher(client, "docs", embedder).search(QUERY, **options)


def test_groups_are_for_single_queries(client, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    searcher = QdrantSearcher(client, "docs", embedder)
    for name, value in (("group_by", "topic"), ("per_document", 1), ("vector", [1.0])):
        with pytest.raises(ConfigError, match=f"`{name}` is for single queries"):
            searcher.search_many([QUERY], **{name: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recency("day", timedelta(0)), "`half_life` is datetime.timedelta"),
        (lambda: Recency("day", timedelta(1), weight=float("nan")), "`weight` is nan"),
        (lambda: Popularity("views", 0), "`half` is 0; it must be a number above 0"),
        (lambda: Feedback(a=1, b="1", c=1), "`b` is '1'; it must be a finite number"),
        (lambda: Feedback(a=1, b=1, c=1, seeds=1), "`seeds` is 1; it must be a whole number"),
    ],
    ids=["half-life", "weight", "half", "b", "seeds"],
)
def test_settings_that_mean_nothing(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "wrong",
    ["year=1200", [("year", 1200)], lambda _layout: "year"],
    ids=["text", "list", "function"],
)
def test_a_filter_of_a_wrong_type_is_named(searcher, wrong):
    with pytest.raises(ConfigError, match=r"`query_filter` has type (str|list); pass metadata"):
        searcher.search(QUERY, query_filter=wrong)

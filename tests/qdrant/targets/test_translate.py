"""The requests that a server gets, compared word for word."""

import dataclasses
from contextlib import ExitStack
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.conversions.conversion import RestToGrpc
from tests.support.qdrant_server import running_server

from quernstone_qdrant import QdrantLoader, QdrantSearcher, TargetError
from quernstone_qdrant.documents.bm25 import LANGUAGES, Bm25Text, encode_document, encode_query
from quernstone_qdrant.settings import PRESETS, CollectionSettings
from quernstone_qdrant.targets import ClientTarget, SearchRequest
from quernstone_qdrant.targets.configuration import version_of
from quernstone_qdrant.targets.queries import query_arguments
from quernstone_qdrant.targets.requests import Bm25Stage
from quernstone_qdrant.targets.translate import (
    batch_rows,
    embedded_points,
    vectors_config,
)


class Asked:
    """The requests that a server received, by what they ask for."""

    def __init__(self, server):
        self._server = server

    def _bodies(self, method, end):
        return [
            request.body
            for request in self._server.requests
            if request.method == method and request.path.endswith(end)
        ]

    @property
    def created(self):
        (body,) = self._bodies("PUT", "/collections/docs")
        return body

    @property
    def indexes(self):
        bodies = self._bodies("PUT", "/index")
        return {body["field_name"]: body["field_schema"] for body in bodies}

    @property
    def points(self):
        return self._bodies("PUT", "/points")[-1]

    @property
    def searches(self):
        return self._bodies("POST", "/points/query")

    @property
    def changes(self):
        """Updates of the collection, and `points` where points were written."""
        return [
            "points" if request.method == "PUT" else request.body
            for request in self._server.requests
            if request.method == "PATCH"
            or (request.method == "PUT" and request.path.endswith("/points"))
        ]


@pytest.fixture
def load(embedder):
    """Loads one record into a server; returns what it was asked, and a searcher of it."""
    with ExitStack() as stack:

        def load(preset, version="1.20.0", **options):
            server = stack.enter_context(running_server(version or "1.18.3"))
            server.keep_bodies = True
            if version is None:
                server.chaos = lambda method, path: "403" if path == "/" else None
            client = server.client()
            loader = QdrantLoader(client, "docs", embedder, preset=preset, **options)
            loader.load([{"id": "mill", "text": "A quern grinds."}])
            return Asked(server), QdrantSearcher(client, "docs", embedder)

        yield load


SCALAR = {"type": "int8"}


@pytest.mark.parametrize(
    ("version", "cold", "pinned"),
    [
        ("1.18.2", {"on_disk": True}, {"always_ram": True}),
        ("1.19.0", {"memory": "cold"}, {"memory": "pinned"}),
    ],
)
def test_a_pair_is_created_in_the_words_of_the_servers_version(load, version, cold, pinned):
    server, _ = load("mrl", version)
    assert server.created["vectors"] == {
        "dense": {"size": 64, "distance": "Cosine", "hnsw_config": {"m": 0}, **cold},
        "prefix": {
            "size": 32,
            "distance": "Cosine",
            "quantization_config": {"scalar": {**SCALAR, **pinned}},
            **cold,
        },
    }
    assert server.created["metadata"]["quernstone"]["settings"] == {
        "vector": "dense",
        "prefix": 32,
        "quantization": "scalar",
        "on_disk": True,
        "node_rule": 2,
        "record_rule": 2,
    }
    key = {"type": "keyword", **cold}
    assert server.indexes == dict.fromkeys(("quernstone.key", "doc_id", "quernstone.node_id"), key)


def test_versions():
    versions = ("1.9.9", "1.18.3", "2.0.0-dev", "dev", "", None)
    assert [version_of(text) for text in versions] == [(1, 9), (1, 18), (2, 0), None, None, None]


def test_a_gateway_that_hides_the_version_gets_the_older_words(load):
    server, _ = load("scalar", version=None)
    assert server.created["vectors"]["on_disk"] is True


def test_everything_else_that_settings_say(load):
    settings = CollectionSettings(
        datatype="float16", quantization="turbo2", m=32, ef_construct=200, shards=4,
        indexes={"year": "integer"}, layout="plain",
    )  # fmt: skip
    server, _ = load(settings)
    assert server.created["vectors"] == {
        "size": 64,
        "distance": "Cosine",
        "datatype": "float16",
        "quantization_config": {"turbo": {"bits": "bits2", "memory": "pinned"}},
    }
    assert server.created["hnsw_config"] == {"m": 32, "ef_construct": 200}
    assert server.created["shard_number"] == 4
    assert server.indexes == {
        "year": "integer",
        "quernstone.key": {"type": "keyword", "memory": "cold"},
    }


def test_a_server_gets_bm25_vectors(load):
    settings = CollectionSettings(bm25="auto", language="german")
    server, searcher = load(settings)
    made = encode_document(Bm25Text("A quern grinds.", "german", 2))
    assert server.created["sparse_vectors"] == {"bm25": {"modifier": "idf"}}
    (sent,) = server.points["batch"]["vectors"]["bm25"]
    assert (sent["indices"], sent["values"]) == (made.indices, made.values)
    assert len(server.points["batch"]["vectors"][""][0]) == 64

    with pytest.warns(UserWarning, match="no document of collection 'docs' has the field 'year'"):
        searcher.search("quern", limit=5, prefetch=50, query_filter={"year": 1200})
    where = {"must": [{"key": "metadata.year", "range": {"gte": 1200.0, "lte": 1200.0}}]}
    (search,) = server.searches
    dense, words = search["prefetch"]
    assert (dense["limit"], dense["filter"], len(dense["query"])) == (50, where, 64)
    assert (words["limit"], words["filter"], words["using"]) == (50, where, "bm25")
    query = encode_query(Bm25Text("quern", "german", 2))
    assert words["query"] == {"indices": query.indices, "values": [1.0]}
    assert search["query"] == {"rrf": {"k": 60}}
    assert (search["limit"], search["filter"], search["with_vector"]) == (5, where, [""])


def test_a_text_index_ranks_by_bm25(load):
    server, searcher = load(CollectionSettings(bm25="text"))
    assert server.indexes["page_content"] == {
        "type": "text",
        "scoring": True,
        "stopwords": "english",
        "stemmer": {"type": "snowball", "language": "english"},
    }
    assert "sparse_vectors" not in server.created
    searcher.search("quern", limit=5)
    words = server.searches[0]["prefetch"][1]
    assert (words["using"], words["query"]) == ("page_content", {"text": "quern"})


def test_a_text_index_goes_without_the_stemmer_that_a_language_does_not_have(load):
    server, _ = load(CollectionSettings(bm25="text", language="catalan"))
    index = {"type": "text", "scoring": True, "stopwords": "catalan"}
    assert server.indexes["page_content"] == index


def test_the_languages_are_those_of_qdrant():
    assert set(LANGUAGES) == {language.value for language in models.Language}


def test_two_stages(load):
    server, searcher = load("mrl")
    searcher.search("quern", limit=5, prefetch=30)
    (search,) = server.searches
    first = search["prefetch"]
    assert (first["using"], first["limit"], len(first["query"])) == ("prefix", 30, 32)
    assert np.linalg.norm(first["query"]) == pytest.approx(1, abs=1e-6)
    assert first["params"]["quantization"]["rescore"] is False
    assert (search["using"], search["limit"]) == ("dense", 5)
    assert len(search["query"]["nearest"]) == 64
    assert "params" not in search


def test_quantized_vectors_are_oversampled_and_rescored(load):
    server, searcher = load("binary")
    searcher.search("quern", limit=5, prefetch=30)
    quantization = server.searches[0]["params"]["quantization"]
    assert (quantization["rescore"], quantization["oversampling"]) == (True, 6.0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("bm25", ["sparse", "text"])
def test_grpc_can_say_it_too(preset, bm25):
    settings = dataclasses.replace(PRESETS[preset].resolved(256), bm25=bm25)
    config = RestToGrpc.convert_vectors_config(vectors_config(settings, 256, memory=True))
    assert sorted(config.params_map.map or [""]) == sorted(settings.vectors(256))

    rows = settings.vectors_to_write(np.ones((2, 256), np.float32), ["mill", "oven"])
    batch = {name: batch_rows(part) for name, part in rows.items()}
    sent = RestToGrpc.convert_batch_vector_struct(batch, 2)
    assert [sorted(point.vectors.vectors) for point in sent] == [sorted(rows)] * 2

    stage = Bm25Stage(
        using="bm25" if bm25 == "sparse" else "page_content",
        sparse=bm25 == "sparse",
        query=Bm25Text("mill", "german", 2),
    )
    vector = np.ones(256, np.float32)
    request = SearchRequest(vector=vector, limit=5, bm25=stage, depth=20, oversampling=2.0)
    arguments = query_arguments(request, embedded=False)
    dense, words = map(RestToGrpc.convert_prefetch_query, arguments["prefetch"])
    assert (len(dense.query.nearest.dense.data), dense.params.quantization.rescore) == (256, True)
    if bm25 == "sparse":
        assert len(words.query.nearest.sparse.indices) == 1
    else:
        assert words.query.text.query == "mill"
    assert RestToGrpc.convert_query(arguments["query"]).rrf.k == 60


def test_embedded_points_are_stored_like_points_that_pydantic_made():
    settings = dataclasses.replace(PRESETS["mrl"].resolved(256), bm25="sparse")
    rows = settings.vectors_to_write(unit_rows(3), ["mill", "oven", "a mill and an oven"])
    ids = [str(UUID(int=n)) for n in range(3)]
    payloads = [{"n": n, "nested": {"deep": [None, 0.1, 2**53 + 1]}} for n in range(3)]
    points = embedded_points(ids, payloads, rows)
    checked = [models.PointStruct(**point.model_dump()) for point in points]
    assert checked == points
    found = []
    for batch in (points, checked):
        client = QdrantClient(":memory:")
        target = ClientTarget(client, "docs")
        target.create(settings, 256, {})
        client.upsert("docs", batch)
        found.append(client.retrieve("docs", ids, with_vectors=True))
    assert found[0] == found[1]
    assert [point.payload for point in found[0]] == payloads


@pytest.mark.parametrize("wrong", ["size", "id"])
def test_the_embedded_client_refuses_a_batch_with_one_wrong_point(wrong):
    target = ClientTarget(QdrantClient(":memory:"), "docs")
    target.create(PRESETS["dense"].resolved(256), 256, {})
    ids = [str(UUID(int=1)), "mill" if wrong == "id" else str(UUID(int=2))]
    numbers = 255 if wrong == "size" else 256
    with pytest.raises(TargetError, match="writing 2 points"):
        target.upsert(ids, [{}, {}], {"": unit_rows(2)[:, :numbers]})
    assert target.count() == 0


def unit_rows(count):
    rows = np.random.default_rng(0).standard_normal((count, 256), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_server_has_everything():
    settings = CollectionSettings(quantization="binary", on_disk=True, m=8, shards=2)
    with running_server("1.20.0") as server:
        assert ClientTarget(server.client(), "docs").ignored(settings) == []


def test_a_load_defers_the_index_and_waits_for_it(load):
    server, _ = load("dense", defer_index="m0", index_timeout=30)
    remember, defer, points, end, restore, forget = server.changes
    ((key, saved),) = remember["metadata"].items()
    assert key.startswith("quernstone_deferred:")
    assert {name: saved[name] for name in ("m", "vectors", "threshold")} == {
        "m": 16,
        "vectors": {},
        "threshold": 10000,
    }
    assert defer["hnsw_config"] == {"m": 0}
    assert points == "points"
    assert end["metadata"][key]["ended"]
    assert restore["hnsw_config"] == {"m": 16}
    assert forget == {"metadata": {key: None}}

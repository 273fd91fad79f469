"""`copy_collection` of a collection that another program created."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import qdrant_edge
from qdrant_client import models
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, QdrantLoader, copy_collection
from quernstone_qdrant.documents import floats
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.targets.edge_schema import edge_indexes, schema_config, unknown_to_edge
from quernstone_qdrant.targets.schema import CollectionSchema

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
VECTORS = {
    "half": models.VectorParams(
        size=4,
        distance=models.Distance.DOT,
        datatype=models.Datatype.FLOAT16,
        on_disk=True,
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, quantile=0.75, always_ram=True
            )
        ),
    ),
    "tokens": models.VectorParams(
        size=3,
        distance=models.Distance.MANHATTAN,
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
        hnsw_config=models.HnswConfigDiff(m=8),
    ),
    "": models.VectorParams(size=8, distance=models.Distance.COSINE),
}
NAMED = {name: one for name, one in VECTORS.items() if name}
SPARSE = {
    "words": models.SparseVectorParams(modifier=models.Modifier.IDF),
    "plain": models.SparseVectorParams(),
}
INDEXES = {
    "n": models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False),
    "place.at": models.PayloadSchemaType.GEO,
}
METADATA = {"owner": {"name": "millers", "ratio": 1.5}}


def points(count, names, seed=0):
    """Points of which each lacks some of the vectors, and some all of the payload."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        words = models.SparseVector(indices=[1, n + 2], values=[0.5, n / 3])
        given = {
            "half": random.normal(size=4).tolist() if n % 3 else None,
            "tokens": random.normal(size=(1 + n % 4, 3)).tolist() if n % 5 else None,
            "": random.normal(size=8).tolist() if n % 7 else None,
            "words": words if n % 2 else None,
            "plain": models.SparseVector(indices=[], values=[]) if n % 11 == 5 else None,
        }
        place = {"at": {"lat": 1.25, "lon": n}}
        made.append(
            models.PointStruct(
                id=n if n % 2 else f"00000000-0000-0000-0000-{n:012d}",
                payload={"n": n, "f": n / 7, "place": place, "none": [None]} if n else {},
                vector={name: one for name, one in given.items() if one and name in names},
            )
        )
    return made


def create(target, count=60, vectors=NAMED, seed=0):
    client = target.client
    client.create_collection(
        target.collection, dict(vectors), sparse_vectors_config=SPARSE, metadata=METADATA
    )
    for path, index in INDEXES.items():
        client.create_payload_index(target.collection, path, index)
    made = points(count, [*vectors, *SPARSE], seed)
    if made:
        client.upsert(target.collection, made, wait=True)
    return target


def assert_equal(source, copy):
    here, there = (list(one.scroll(None, with_vectors=True)) for one in (source, copy))
    assert [one.id for one in here] == [one.id for one in there]
    for one, other in zip(here, there, strict=True):
        assert floats.equal(one.payload, other.payload)
        assert one.vectors.keys() == other.vectors.keys()
        for name, vector in one.vectors.items():
            np.testing.assert_allclose(vector, other.vectors[name], rtol=2e-3, atol=1e-6)
        assert {n: row.indices for n, row in one.sparse.items()} == {
            n: row.indices for n, row in other.sparse.items()
        }
        for name, row in one.sparse.items():
            np.testing.assert_allclose(row.values, other.sparse[name].values, rtol=1e-6)
    assert copy.state().metadata == METADATA


@pytest.mark.parametrize(
    "places",
    [
        ("rest", "edge", "grpc", "rest", "embedded"),
        ("grpc", "edge", "rest", "grpc", "embedded", "edge", "embedded", "rest"),
    ],
    ids="-".join,
)
def test_a_collection_stays_the_same_from_place_to_place(place, places):
    first = source = create(place(places[0]))
    indexes = INDEXES
    for here, there in pairwise(places):
        copy = place(there)
        report = copy_collection(source, copy)
        assert (report.points, report.copied, report.compared, report.different) == (
            60,
            60,
            60,
            0,
        )
        assert copy_collection(source, copy).copied == 0
        assert_equal(first, copy)
        lost = [f"the payload index of {path!r}" for path in indexes] if there == "embedded" else []
        assert list(report.ignored) == lost, here
        indexes = {} if there == "embedded" else indexes
        kept = replace(copy.schema(), payload_on_disk=None)
        wanted = CollectionSchema(vectors=NAMED, sparse=SPARSE, indexes=indexes)
        assert kept.to_json() == wanted.to_json()
        source = copy


@pytest.mark.parametrize("there", ["embedded", "edge", "rest"])
def test_an_unnamed_vector_and_settings_of_the_whole_collection(place, there):
    source, copy = place("rest"), place(there)
    quantization = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
    source.client.create_collection(
        "docs",
        VECTORS[""],
        hnsw_config=models.HnswConfigDiff(m=24),
        quantization_config=quantization,
    )
    source.client.upsert("docs", points(9, [""]), wait=True)
    assert copy_collection(source, copy).different == 0
    assert copy_collection(source, copy).unchanged == 9
    assert copy.state().vectors == source.state().vectors
    kept, again = copy.schema(), place("grpc")
    one, other = (schema.with_own_settings().to_json() for schema in (kept, source.schema()))
    assert one["vectors"] == other["vectors"]
    copy_collection(copy, again)
    assert again.state().vectors[""].quantization == "binary"


@pytest.mark.parametrize("there", ["edge", "rest"])
def test_a_stopped_copy_continues_and_later_changes_follow(place, there):
    source, copy = create(place("embedded"), 300), place(there)

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_collection(source, copy, progress=stop)
    before = copy.count()
    assert 0 < before < 300
    report = copy_collection(source, copy)
    assert (report.copied, report.unchanged, report.different) == (300 - before, before, 0)
    source.client.delete("docs", [1, 3, 5])
    source.client.set_payload("docs", {"n": -1}, [7])
    report = copy_collection(source, copy)
    assert (report.copied, report.extra, report.deleted) == (1, 3, 0)
    assert copy_collection(source, copy, delete=True).deleted == 3
    assert_equal(source, copy)


def test_what_the_destination_stores_otherwise_is_counted(place):
    source = place("embedded")
    bytes_ = models.VectorParams(size=2, distance="Dot", datatype=models.Datatype.UINT8)
    source.client.create_collection("docs", bytes_)
    vectors = [[1.0, 2.0], [0.25, 7.0]]  # the embedded client keeps fractions
    made = [models.PointStruct(id=n, vector=vector) for n, vector in enumerate(vectors)]
    source.client.upsert("docs", made)
    report = copy_collection(source, place("edge"))
    assert (report.copied, report.compared, report.different) == (2, 2, 1)


def test_other_collections_are_not_overwritten(place, embedder):
    source = create(place("embedded"), 9)
    ours = place("rest")
    QdrantLoader(ours, "docs", embedder).load([{"id": "a", "text": "a mill"}])
    with pytest.raises(CollectionError, match="not a copy of 'docs': it records a model"):
        copy_collection(source, ours)
    smaller = {**NAMED, "half": models.VectorParams(size=2, distance="Cosine")}
    for unlike, message in (
        (create(place("rest"), 0, smaller), "'half' is 2 Cosine float32 instead of 4 Dot float16"),
        (create(place("embedded"), 9, seed=1), "of its first 9 points, 1 are the same"),
    ):
        before = unlike.count()
        with pytest.raises(CollectionError, match=message):
            copy_collection(source, unlike, delete=True)
        assert unlike.count() == before


def test_what_a_destination_cannot_have_is_refused_by_name(place, monkeypatch):
    source = create(place("rest"), 3)
    with running_server(version="1.15.4") as server:
        old = as_target(server.client(), "docs")
        with pytest.raises(CollectionError, match=r"cannot have metadata \(Qdrant 1.16 or newer"):
            copy_collection(source, old)
        assert not old.exists()
    text = models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=True)
    with running_server(version="1.20.0") as server:
        ranked = as_target(server.client(), "docs")
        create(ranked, 3)
        ranked.client.create_payload_index("docs", "body", text)
        copy = place("rest")
        with pytest.raises(CollectionError, match="the scores of the text index of 'body'"):
            copy_collection(ranked, copy)
        assert not copy.exists()
    monkeypatch.delattr(qdrant_edge, "ScalarQuantizationConfig")
    edge = place("edge")
    with pytest.raises(CollectionError, match=r"the vector 'half' \(Edge has no ScalarQuant"):
        copy_collection(source, edge)
    assert not edge.exists()


def everything():
    """A schema with a value of every kind that qdrant-client has."""
    turbo = models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS1_5)
    product = models.ProductQuantizationConfig(
        compression=models.CompressionRatio.X16, memory=models.Memory.CACHED
    )
    binary = models.BinaryQuantizationConfig(
        encoding=models.BinaryQuantizationEncoding.TWO_BITS,
        query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR4BITS,
    )
    kinds = {
        "turbo": models.TurboQuantization(turbo=turbo),
        "product": models.ProductQuantization(product=product),
        "binary": models.BinaryQuantization(binary=binary),
        "memory": None,
    }
    return CollectionSchema(
        vectors={
            name: models.VectorParams(
                size=8, distance="Euclid", quantization_config=kind, memory=models.Memory.COLD
            )
            for name, kind in kinds.items()
        },
        sparse={
            "words": models.SparseVectorParams(
                index=models.SparseIndexParams(
                    full_scan_threshold=10, on_disk=True, datatype=models.Datatype.FLOAT16
                )
            )
        },
        indexes={
            **{f"as_{kind.value}": kind for kind in models.PayloadSchemaType},
            "memory": models.KeywordIndexParams(
                type="keyword", is_tenant=True, memory=models.Memory.PINNED
            ),
            "body": models.TextIndexParams(
                type="text",
                tokenizer=models.TokenizerType.MULTILINGUAL,
                stopwords=models.StopwordsSet(languages=["english"], custom=["x"]),
                stemmer=models.SnowballParams(type="snowball", language="german"),
                scoring=True,
            ),
            "title": models.TextIndexParams(
                type="text", stemmer=models.DisabledStemmerParams(type="none")
            ),
        },
        graph=models.HnswConfigDiff(m=32, payload_m=4),
        quantization=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type="int8", memory=models.Memory.PINNED)
        ),
        payload_on_disk=True,
    )


def test_every_kind_of_vector_and_index_is_known_to_edge(tmp_path):
    schema = everything()
    assert CollectionSchema.from_json(schema.to_json()) == schema
    assert list(unknown_to_edge(schema)) == []
    shard = qdrant_edge.EdgeShard.create(str(tmp_path), schema_config(schema))
    for path, index in edge_indexes(schema).items():
        shard.update(qdrant_edge.UpdateOperation.create_field_index(path, index))
    assert shard.info().payload_schema.keys() == schema.indexes.keys()


def test_older_servers_get_the_options_that_they_know():
    older = everything().for_older()
    assert older.vectors["product"].on_disk is True
    assert older.vectors["product"].quantization_config.product.always_ram is False
    assert older.quantization.scalar.always_ram is True
    assert older.indexes["memory"].on_disk is False
    assert "'memory': '" not in str(older.to_json())
    assert older.vectors.keys() == everything().vectors.keys()

"""Existing collections whose real configuration differs from what a load needs or records."""

import pytest
from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant import CollectionError, QdrantLoader, QdrantSearcher
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.provenance import Provenance, change_settings
from quernstone_qdrant.settings import PRESETS, CollectionSettings
from quernstone_qdrant.targets import as_target

RECORDS = [{"id": f"d{n}", "text": f"stone mill {n}", "year": 1200 + n} for n in range(20)]
RULES = {"node_rule": 2, "record_rule": 2}
COSINE = models.VectorParams(size=64, distance=models.Distance.COSINE)
INT8 = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
)
SPARSE = models.SparseVectorParams(modifier=models.Modifier.IDF)


@pytest.fixture
def running(shared_server):
    return shared_server


@pytest.fixture
def client(either_client):
    return either_client


def changes_of(server, before):
    """The writes that a server received since."""
    return [one for one in server.requests[before:] if one.method not in ("GET", "POST")]


def config(running, name="docs"):
    return running.collections[name].config


def vector(**changes):
    return COSINE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("created", "overrides", "message"),
    [
        ({}, {"preset": "uint8"}, "its datatype is float32, but the settings need uint8"),
        (
            {"vectors_config": vector(datatype=models.Datatype.UINT8)},
            {},
            "its datatype is uint8, but the settings need float32",
        ),
        (
            {"vectors_config": vector(datatype=models.Datatype.UINT8)},
            {"preset": "uint8"},
            "its distance is Cosine; it must be Euclid",
        ),
        (
            {
                "vectors_config": vector(
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    )
                )
            },
            {},
            "it is a multivector",
        ),
        (
            {"sparse_vectors_config": {"bm25": models.SparseVectorParams()}},
            {"hybrid": True},
            "its sparse vector `bm25` has no IDF modifier",
        ),
        (
            {"sparse_vectors_config": {"words": SPARSE}},
            {"hybrid": True},
            "it has the sparse vector `words`, which these settings would leave empty",
        ),
        (
            {"sparse_vectors_config": {"bm25": SPARSE}},
            {},
            "it has the sparse vector `bm25`, which these settings would leave empty",
        ),
        ({"vectors_config": {"mine": COSINE}}, {}, r"named vectors \(`mine`\), but the settings"),
        ({}, {"settings": {"shards": 3}}, "shards is 1, not 3, which cannot change"),
    ],
)
def test_what_an_empty_collection_cannot_get_is_refused_before_anything_is_written(
    client, running, embedder, created, overrides, message
):
    client.create_collection("docs", **{"vectors_config": COSINE, **created})
    before = len(running.requests)
    with pytest.raises(CollectionError, match=message):
        QdrantLoader(client, "docs", embedder, **overrides)
    assert changes_of(running, before) == []
    assert not running.collections["docs"].metadata


def test_an_empty_collection_gets_what_the_server_can_add(client, running, embedder):
    client.create_collection("docs", vectors_config=COSINE)
    loader = QdrantLoader(client, "docs", embedder, preset="scalar", hybrid=True)
    report = loader.load(RECORDS)
    assert report.embedded == len(RECORDS)
    assert report.notes == (
        "changed quantization from None to 'scalar'",
        "changed on_disk from False to True",
        "added named vectors (`bm25`)",
    )
    params = config(running)["params"]
    assert params["sparse_vectors"]["bm25"]["modifier"] == "idf"
    assert params["vectors"]["quantization_config"]["scalar"]["type"] == "int8"
    assert params["vectors"]["on_disk"] is True
    hits = QdrantSearcher(client, "docs", embedder).search("mill 7", limit=1)
    assert hits[0].fused_score > 0
    assert QdrantLoader(client, "docs", embedder).load(RECORDS).notes == ()


def test_a_missing_prefix_is_added_with_its_storage(client, running, embedder):
    client.create_collection("docs", vectors_config={"dense": COSINE})
    QdrantLoader(client, "docs", embedder, preset="mrl").load(RECORDS)
    prefix = config(running)["params"]["vectors"]["prefix"]
    assert (prefix["size"], prefix["on_disk"]) == (32, True)
    assert "scalar" in prefix["quantization_config"]


def test_a_server_that_cannot_add_vectors_says_so(client, running, embedder):
    running.version = "1.17.1"
    client.create_collection("docs", vectors_config=COSINE)
    with pytest.raises(CollectionError, match=r"lacks the vector `bm25`.*this one is 1.17.1"):
        QdrantLoader(client, "docs", embedder, hybrid=True)
    assert not running.collections["docs"].metadata


def test_an_adopted_collection_records_what_it_has(client, embedder):
    client.create_collection("docs", vectors_config=COSINE, quantization_config=INT8)
    loader = QdrantLoader(client, "docs", embedder)
    assert loader.provenance.settings == CollectionSettings(
        quantization="scalar", node_rule=2, record_rule=2
    )
    client.create_collection("half", vectors_config=vector(datatype=models.Datatype.FLOAT16))
    loader = QdrantLoader(client, "half", embedder)
    assert loader.provenance.settings == CollectionSettings(
        datatype="float16", node_rule=2, record_rule=2
    )


def recorded(client, name="docs"):
    return Provenance.read(as_target(client, name).state()).settings


IN_PLACE = {
    "quantization": "binary",
    "on_disk": True,
    "m": 32,
    "ef_construct": 200,
    "full_scan_threshold": 500,
    "max_indexing_threads": 2,
    "payload_m": 8,
    "graph_on_disk": True,
    "payload_on_disk": False,
    "replication_factor": 2,
    "write_consistency": 2,
    "indexes": {"year": "integer"},
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_setting_changes_in_place_and_is_recorded(client, running, embedder, name):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    loader = QdrantLoader(client, "docs", embedder, settings={name: IN_PLACE[name]})
    assert getattr(loader.provenance.settings, name) == IN_PLACE[name]
    report = loader.load(RECORDS)
    assert (report.embedded, report.skipped) == (0, len(RECORDS))
    assert len(report.notes) == 1
    assert recorded(client) == loader.provenance.settings
    state = as_target(client, "docs").state()
    if name == "indexes":
        assert state.payload_indexes["metadata.year"] == "integer"
    elif name in state.config:
        assert state.config[name] == IN_PLACE[name]
    else:
        assert getattr(state.vectors[""], name) == IN_PLACE[name]
    again = QdrantLoader(client, "docs", embedder, settings={name: IN_PLACE[name]})
    assert again.load(RECORDS).notes == ()


def test_a_preset_changes_only_what_can_change(client, embedder):
    QdrantLoader(client, "docs", embedder, preset="scalar").load(RECORDS)
    QdrantLoader(client, "docs", embedder, preset="dense")
    assert recorded(client) == CollectionSettings(**RULES)
    assert as_target(client, "docs").state().vectors[""].quantization is None
    with pytest.raises(CollectionError, match="created with datatype='float32'"):
        QdrantLoader(client, "docs", embedder, preset=PRESETS["float16"])


def test_metadata_is_written_after_the_server_confirmed(client, running, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    running.chaos = lambda method, path: "500" if method == "PATCH" else None
    with pytest.raises(Exception, match="changing m"):
        QdrantLoader(client, "docs", embedder, settings={"m": 32}, patience=0)
    running.chaos = None
    assert recorded(client).m is None


def test_the_type_of_an_index_changes(client, embedder):
    QdrantLoader(client, "docs", embedder, settings={"indexes": {"year": "float"}}).load(RECORDS)
    QdrantLoader(client, "docs", embedder, settings={"indexes": {"year": "integer"}})
    assert as_target(client, "docs").state().payload_indexes["metadata.year"] == "integer"
    assert recorded(client).indexes == {"year": "integer"}


def test_tenants(client, running, embedder):
    overrides = {"indexes": {"customer": "tenant"}, "payload_m": 16, "m": 0}
    QdrantLoader(client, "docs", embedder, settings=overrides).load(RECORDS)
    index = running.collections["docs"].payload_schema["metadata.customer"]
    assert index["params"]["is_tenant"] is True
    assert config(running)["hnsw_config"]["payload_m"] == 16
    assert QdrantLoader(client, "docs", embedder).load(RECORDS).notes == ()


@pytest.mark.parametrize("path", ["quernstone.key", "doc_id", "metadata.year"])
def test_a_missing_payload_index_is_created_at_every_opening(client, embedder, path):
    settings = {"indexes": {"year": "integer"}}
    QdrantLoader(client, "docs", embedder, settings=settings).load(RECORDS)
    client.delete_payload_index("docs", path)
    report = QdrantLoader(client, "docs", embedder).load(RECORDS)
    assert report.notes == (f"created the payload indexes of {path}, which were missing",)
    assert path in as_target(client, "docs").state().payload_indexes


def test_a_collection_that_another_program_changed_is_refused_by_name(client, running, embedder):
    QdrantLoader(client, "docs", embedder, preset="scalar").load(RECORDS)
    client.update_collection(
        "docs",
        vectors_config={"": models.VectorParamsDiff(quantization_config=models.Disabled.DISABLED)},
    )
    before = len(running.requests)
    with pytest.raises(
        CollectionError,
        match="quantization is None, but 'scalar' is recorded: request quantization='scalar'",
    ):
        QdrantLoader(client, "docs", embedder)
    assert changes_of(running, before) == []
    kept = QdrantLoader(client, "docs", embedder, settings={"quantization": None})
    assert kept.load(RECORDS).notes == ()
    assert recorded(client).quantization is None


def test_a_recorded_vector_that_is_gone_is_refused(client, embedder):
    QdrantLoader(client, "docs", embedder, hybrid=True).load(RECORDS)
    client.delete_vector_name("docs", "bm25")
    with pytest.raises(CollectionError, match="its points have no sparse vectors `bm25`"):
        QdrantLoader(client, "docs", embedder)


@pytest.mark.parametrize(
    ("settings", "version", "message"),
    [
        ({"quantization": "turbo8"}, "1.19.0", "quantization='turbo8' needs Qdrant 1.20"),
        ({"quantization": "turbo4"}, "1.17.0", "quantization='turbo4' needs Qdrant 1.18"),
        (
            {},
            "1.15.5",
            r"the metadata of a collection, which records its model, needs Qdrant 1\.16",
        ),
        ({"bm25": "text"}, "1.18.3", r"a text index with scores\) needs Qdrant 1\.20"),
    ],
)
def test_a_setting_that_is_newer_than_the_server_is_refused_before_anything_is_created(
    client, running, embedder, settings, version, message
):
    running.version = version
    with pytest.raises(CollectionError, match=f"{message} or newer, but the server is {version}"):
        QdrantLoader(client, "docs", embedder, settings=settings)
    assert "docs" not in running.collections
    if "quantization" in settings:
        QdrantLoader(client, "docs", embedder).load(RECORDS)
        with pytest.raises(CollectionError, match=message):
            QdrantLoader(client, "docs", embedder, settings=settings)
        assert recorded(client) == CollectionSettings(**RULES)


def test_an_empty_collection_is_not_described_with_a_setting_that_the_server_lacks(
    client, running, embedder
):
    client.create_collection("docs", vectors_config=COSINE)
    with pytest.raises(CollectionError, match=r"needs Qdrant 1\.20 or newer"):
        QdrantLoader(client, "docs", embedder, settings={"bm25": "text"})
    assert not running.collections["docs"].metadata


def test_settings_change_without_a_model(client, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    notes = []
    overrides = SettingsOverrides(changes={"m": 24, "graph_on_disk": True})
    changed = change_settings(as_target(client, "docs"), overrides, note=notes.append)
    assert notes == ["changed m from 16 to 24", "changed graph_on_disk from False to True"]
    assert recorded(client) == changed.settings
    client.create_collection("foreign", vectors_config=COSINE)
    with pytest.raises(CollectionError, match="another program created it"):
        change_settings(as_target(client, "foreign"), overrides)


def test_an_unknown_setting_is_named(client, embedder):
    with pytest.raises(ConfigError, match=r"`settings` names colour; the settings of a"):
        QdrantLoader(client, "docs", embedder, settings={"colour": "red"})


def test_edge_changes_in_place_what_it_has(tmp_path, embedder):
    from quernstone_qdrant import EdgeTarget

    target = EdgeTarget(tmp_path / "edge", "docs")
    QdrantLoader(target, "docs", embedder).load(RECORDS)
    wanted = {"quantization": "scalar", "m": 8, "graph_on_disk": True, "replication_factor": 2}
    loader = QdrantLoader(
        target, "docs", embedder, settings={**wanted, "indexes": {"year": "integer"}}
    )
    report = loader.load(RECORDS)
    assert report.skipped == len(RECORDS)
    assert report.ignored == ("replicas",)
    assert "changed quantization from None to 'scalar'" in report.notes
    state = target.state()
    assert (state.vectors[""].quantization, state.config["m"]) == ("scalar", 8)
    assert "metadata.year" in state.payload_indexes
    found = QdrantSearcher(target, "docs", embedder).search("mill 7", limit=20)
    assert "d7" in {hit.key for hit in found}
    target.close()
    again = EdgeTarget(tmp_path / "edge", "docs")
    assert QdrantLoader(again, "docs", embedder).load(RECORDS).notes == ()
    again.close()


def test_the_embedded_client_records_and_names_what_it_ignores(embedder):
    from qdrant_client import QdrantClient

    embedded = QdrantClient(":memory:")
    QdrantLoader(embedded, "docs", embedder).load(RECORDS)
    wanted = {**IN_PLACE, "shards": None}
    loader = QdrantLoader(embedded, "docs", embedder, settings=wanted, defer_index="m0")
    assert loader.provenance.settings == CollectionSettings(**{**RULES, **wanted})
    report = loader.load(RECORDS)
    (note,) = report.notes
    assert note == "`defer_index` (`--defer-index`) is ignored: the embedded client has no index"
    assert report.ignored == (
        "quantization", "vectors on disk", "an HNSW graph", "payload indexes",
        "payloads on disk", "replicas",
    )  # fmt: skip


def test_an_adoption_is_retried(running, client, embedder):
    """The addition of the sparse vector fails once, and so does the change after it."""
    client.create_collection("docs", vectors_config=COSINE)
    paths = ["/collections/docs/vectors/bm25", "/collections/docs/index"]

    def fail(method, path):
        if method == "PUT" and path in paths:
            paths.remove(path)
            return "500"
        return None

    running.chaos = fail
    report = QdrantLoader(client, "docs", embedder, hybrid=True, preset="scalar").load(RECORDS)
    assert not paths
    assert len(report.notes) == len(set(report.notes)) == 3
    assert report.embedded == 20

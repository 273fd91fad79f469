"""Settings of a server that a copy does not keep are named."""

import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import running_server

from quernstone_qdrant import QdrantLoader, copy_collection
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.targets.schema import reported_settings

OTHERS = {
    "optimizers_config": models.OptimizersConfigDiff(deleted_threshold=0.4, max_segment_size=9000),
    "wal_config": models.WalConfigDiff(wal_capacity_mb=64),
    "strict_mode_config": models.StrictModeConfig(enabled=True, max_query_limit=500),
    "shard_number": 3,
    "write_consistency_factor": 2,
}
NAMED = (
    "`optimizer_config.deleted_threshold` is 0.2 instead of 0.4",
    "`optimizer_config.max_segment_size` is not set instead of 9000",
    "`wal_config.wal_capacity_mb` is 32 instead of 64",
    "`strict_mode_config.max_query_limit` is not set instead of 500",
    "`params.shard_number` is 1 instead of 3",
    "`params.write_consistency_factor` is 1 instead of 2",
)


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def config_of(target):
    return target.client.get_collection(target.collection).config


def foreign(server):
    target = as_target(server.client(), "foreign")
    vectors = models.VectorParams(
        size=4,
        distance=models.Distance.DOT,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
    )
    target.client.create_collection(
        "foreign",
        vectors,
        hnsw_config=models.HnswConfigDiff(m=24, payload_m=4),
        on_disk_payload=False,
        metadata={"owner": "miller"},
        **OTHERS,
    )
    return target


def own(server, embedder):
    target = as_target(server.client(), "own")
    QdrantLoader(target, "own", embedder, settings={"m": 24}).load([{"id": "a", "text": "rye"}])
    target.client.update_collection(
        "own",
        optimizers_config=OTHERS["optimizers_config"],
        strict_mode_config=OTHERS["strict_mode_config"],
        collection_params=models.CollectionParamsDiff(write_consistency_factor=2),
    )
    return target


@pytest.mark.parametrize("kind", ["foreign", "own"])
def test_a_copy_names_the_settings_that_it_does_not_have(server, embedder, kind):
    source = foreign(server) if kind == "foreign" else own(server, embedder)
    copy = as_target(server.client(), f"{kind}-copy")
    [note] = copy_collection(source, copy).notes
    named = NAMED if kind == "foreign" else [*NAMED[:2], NAMED[3], NAMED[5]]
    assert note.startswith("settings of the source that are not copied: ")
    assert sorted(note.split(": ", 1)[1].split(". Most")[0].split("; ")) == sorted(
        [*named, "`strict_mode_config.enabled` is not set instead of True"]
    )
    ours, theirs = config_of(source), config_of(copy)
    assert theirs.hnsw_config == ours.hnsw_config
    assert theirs.params.vectors == ours.params.vectors
    assert theirs.params.on_disk_payload == ours.params.on_disk_payload
    again = copy_collection(source, copy)
    assert again.notes == (note,)
    embedded = as_target(QdrantClient(":memory:"), "there")
    [other] = copy_collection(source, embedded).notes
    assert "strict mode" in other


def test_a_setting_that_this_version_does_not_know_is_reported(server, embedder):
    class Newer(models.CollectionConfig):
        future: dict[str, int] | None = None

    target = as_target(server.client(), "newer")
    QdrantLoader(target, "newer", embedder).load([{"id": "a", "text": "rye"}])
    config = config_of(target)
    newer = Newer(**config.model_dump(), future={"size": 3})
    assert reported_settings(newer) == {**reported_settings(config), "future.size": 3}
    heads = {path.split(".")[0] for path in reported_settings(config)}
    assert heads <= set(models.CollectionConfig.model_fields) - {"metadata"}

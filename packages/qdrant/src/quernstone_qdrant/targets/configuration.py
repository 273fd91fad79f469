"""Read a server's configuration of a collection, and translate changes of it.

Only a server's answers are read here; the embedded client keeps most settings without using them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from qdrant_client import models

from quernstone_qdrant.settings import BM25, GRAPH, STORAGE, CollectionSettings
from quernstone_qdrant.targets.base import CollectionState, IndexConfig, VectorState
from quernstone_qdrant.targets.schema import CollectionSchema, FieldIndex, schema_of
from quernstone_qdrant.targets.strict_mode import limits
from quernstone_qdrant.targets.translate import quantization_config

ADDS_VECTORS_SINCE = (1, 18)
_METADATA = "the metadata of a collection, which records its model,"


def version_of(text: str | None) -> tuple[int, int] | None:
    """Return the major and minor version; None if it is not readable, as with some gateways."""
    parts = (text or "").split(".")[:2]
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def too_new(settings: CollectionSettings, version: str | None) -> list[str]:
    """Describe the settings that a server of this version does not have."""
    known = version_of(version)
    if known is None:
        return []
    return [
        f"{what} needs Qdrant {major}.{minor} or newer, but the server is {version}"
        for what, (major, minor) in {_METADATA: (1, 16), **settings.minimum_versions()}.items()
        if known < (major, minor)
    ]


def too_new_for(
    schema: CollectionSchema, metadata: Mapping[str, Any], version: str | None
) -> list[str]:
    """Describe what a server of this version does not have of a collection."""
    known = version_of(version)
    if known is None:
        return []
    needed: dict[str, tuple[int, int]] = {"metadata": (1, 16)} if metadata else {}
    for name, vector in schema.vectors.items():
        kind = _kind(vector.quantization_config or schema.quantization)
        if (kind or "").startswith("turbo"):
            newest = kind == "turbo8"
            needed[f"quantization={kind!r} of the vector {name!r}"] = (1, 20 if newest else 18)
    for path, index in schema.indexes.items():
        if getattr(index, "scoring", None):
            needed[f"the scores of the text index of {path!r}"] = (1, 20)
    return [
        f"{what} (Qdrant {major}.{minor} or newer; the server is {version})"
        for what, (major, minor) in needed.items()
        if known < (major, minor)
    ]


def collection_state(info: models.CollectionInfo, *, embedded: bool) -> CollectionState:
    """Return the state of a collection from a client's answer.

    Args:
        info: The answer.
        embedded: True if it comes from the embedded client, which reports settings that it ignores.
    """
    config = info.config
    return CollectionState(
        metadata=config.metadata or {},
        points=info.points_count or 0,
        **schema_state(schema_of(info, embedded=embedded)),
        status=info.status.value,
        failure=getattr(info.optimizer_status, "error", None),
        queued=info.update_queue.length if info.update_queue else 0,
        config={} if embedded else _configured(config),
        index=_index_config(config),
        segments=None if embedded else info.segments_count,
        indexed=None if embedded else info.indexed_vectors_count,
        replicas=config.params.replication_factor or 1,
        limits=limits(config.strict_mode_config),
    )


def schema_state(schema: CollectionSchema) -> dict[str, Any]:
    """Return the fields of a `CollectionState` that follow from a schema."""
    return {
        "vectors": {
            name: VectorState(
                size=vector.size,
                distance=vector.distance.value,
                datatype=vector.datatype.value if vector.datatype else "float32",
                quantization=_kind(vector.quantization_config or schema.quantization),
                on_disk=bool(vector.on_disk) or vector.memory == models.Memory.COLD,
                multivector=vector.multivector_config is not None,
            )
            for name, vector in schema.vectors.items()
        },
        "sparse": {
            name: vector.modifier == models.Modifier.IDF for name, vector in schema.sparse.items()
        },
        "payload_indexes": {path: _index_type(index) for path, index in schema.indexes.items()},
    }


def _index_type(index: FieldIndex) -> str:
    """Return the type of a payload index, as `CollectionSettings` names it."""
    if isinstance(index, models.PayloadSchemaType):
        return index.value
    return "tenant" if getattr(index, "is_tenant", None) else index.type.value


def _configured(config: models.CollectionConfig) -> dict[str, Any]:
    """Return the values in force of the settings in `CONFIGURED`, as far as the server says."""
    values = {name: getattr(config.hnsw_config, theirs) for name, theirs in GRAPH.items()}
    values |= {name: getattr(config.params, theirs) for name, theirs in STORAGE.items()}
    if config.hnsw_config.memory is not None:
        values["graph_on_disk"] = config.hnsw_config.memory == models.Memory.COLD
    if config.params.payload is not None and config.params.payload.memory is not None:
        values["payload_on_disk"] = config.params.payload.memory == models.Memory.COLD
    return values


def _index_config(config: models.CollectionConfig) -> IndexConfig:
    """Extract the index settings from a server's answer."""
    return IndexConfig(
        m=config.hnsw_config.m,
        vectors={
            name: vector.hnsw_config.m
            for name, vector in _named(config).items()
            if vector.hnsw_config is not None and vector.hnsw_config.m is not None
        },
        threshold=config.optimizer_config.indexing_threshold,
    )


def index_arguments(config: IndexConfig) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.update_collection` without the collection's name.

    An update that changes nothing still wakes the server's optimizer.
    """
    arguments: dict[str, Any] = {
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=config.threshold)
    }
    if config.m is not None:
        arguments["hnsw_config"] = models.HnswConfigDiff(m=config.m)
    if config.vectors:
        arguments["vectors_config"] = {
            name: models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=m))
            for name, m in config.vectors.items()
        }
    return arguments


def change_arguments(
    settings: CollectionSettings, dimensions: int, names: Collection[str], *, memory: bool
) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.update_collection` that change settings in place.

    Args:
        settings: The new settings.
        dimensions: Size of the embeddings.
        names: Fields of `settings` to change; `indexes` is not part of the configuration.
        memory: True if the server takes `memory` instead of `on_disk`.
    """
    arguments: dict[str, Any] = {}
    graph = {theirs: getattr(settings, name) for name, theirs in GRAPH.items() if name in names}
    if graph:
        arguments["hnsw_config"] = models.HnswConfigDiff(**graph)
    storage = {theirs: getattr(settings, name) for name, theirs in STORAGE.items() if name in names}
    if storage:
        arguments["collection_params"] = models.CollectionParamsDiff(**storage)
    needed = settings.vectors(dimensions)
    vectors: dict[str, dict[str, Any]] = {name: {} for name in needed}
    for name, vector in needed.items():
        if "quantization" in names:
            vectors[name]["quantization_config"] = (
                quantization_config(vector.quantization, memory=memory) or models.Disabled.DISABLED
            )
        if "on_disk" in names and memory:
            where = models.Memory.COLD if vector.on_disk else models.Memory.CACHED
            vectors[name]["memory"] = where
        elif "on_disk" in names:
            vectors[name]["on_disk"] = vector.on_disk
    if "quantization" in names and any(one.quantization is None for one in needed.values()):
        # A vector without its own quantization uses the collection's.
        arguments["quantization_config"] = models.Disabled.DISABLED
    if any(vectors.values()):
        arguments["vectors_config"] = {
            name: models.VectorParamsDiff(**change) for name, change in vectors.items()
        }
    return arguments


def new_vector(settings: CollectionSettings, dimensions: int, name: str) -> Any:
    """Return the configuration of a vector to add. Its storage is configured afterwards."""
    if name == BM25:
        return models.SparseVectorNameConfig(
            sparse=models.SparseVectorConfig(modifier=models.Modifier.IDF)
        )
    vector = settings.vectors(dimensions)[name]
    return models.DenseVectorNameConfig(
        dense=models.DenseVectorConfig(
            size=vector.size,
            distance=models.Distance(vector.distance),
            datatype=models.VectorStorageDatatype(vector.datatype),
        )
    )


def _named(config: models.CollectionConfig) -> dict[str, models.VectorParams]:
    vectors = config.params.vectors or {}
    return {"": vectors} if isinstance(vectors, models.VectorParams) else vectors


def _kind(quantization: models.QuantizationConfig | None) -> str | None:
    if isinstance(quantization, models.ScalarQuantization):
        return "scalar"
    if isinstance(quantization, models.BinaryQuantization):
        return "binary"
    if isinstance(quantization, models.ProductQuantization):
        return "product"
    if isinstance(quantization, models.TurboQuantization):
        # Qdrant's default is 4 bits.
        bits = quantization.turbo.bits or models.TurboQuantBitSize.BITS4
        return bits.value.replace("bits", "turbo")
    return None

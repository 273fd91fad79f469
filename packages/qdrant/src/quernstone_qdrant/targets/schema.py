"""The exact configuration of a collection, also of one that another program created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel, TypeAdapter
from qdrant_client import models

FieldIndex: TypeAlias = "models.PayloadSchemaType | models.PayloadSchemaParams"
"""A payload index: its type alone, or its parameters."""

_INDEXES: TypeAdapter[dict[str, FieldIndex]] = TypeAdapter(dict[str, models.PayloadFieldSchema])
_GRAPH_DEFAULTS = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "max_indexing_threads": 0,
    "on_disk": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSchema:
    """The part of a collection's configuration that a copy keeps: all but shards and replicas."""

    vectors: Mapping[str, models.VectorParams]
    """Dense vectors by name; the name of the unnamed vector is empty."""
    sparse: Mapping[str, models.SparseVectorParams] = field(default_factory=dict)
    indexes: Mapping[str, FieldIndex] = field(default_factory=dict)
    """Payload indexes by path."""
    graph: models.HnswConfigDiff | None = None
    """Settings of the graphs that differ from Qdrant's defaults."""
    quantization: models.QuantizationConfig | None = None
    """Quantization of the vectors without one of their own."""
    payload_on_disk: bool | None = None
    reported: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """All settings that a server reports, by path, without metadata; empty without a server."""

    def with_own_settings(self) -> CollectionSchema:
        """Move the graph and the quantization of the collection to its vectors."""
        vectors = {
            name: vector.model_copy(
                update={
                    "quantization_config": vector.quantization_config or self.quantization,
                    "hnsw_config": self._graph_of(vector),
                }
            )
            for name, vector in self.vectors.items()
        }
        return CollectionSchema(
            vectors=vectors,
            sparse=self.sparse,
            indexes=self.indexes,
            payload_on_disk=self.payload_on_disk,
        )

    def differences(self, other: CollectionSchema) -> Iterator[str]:
        """Describe how the vectors of `other` differ in name, size, distance or datatype.

        Graphs, quantization and payload indexes are not compared: they only affect performance.
        """
        ours, theirs = self._vector_descriptions(), other._vector_descriptions()
        for name in sorted(ours.keys() | theirs.keys()):
            one, two = ours.get(name), theirs.get(name)
            if one != two:
                yield f"{name} is {two or 'missing'} instead of {one or 'missing'}"

    def to_json(self) -> dict[str, Any]:
        """Return the schema as JSON."""
        return {
            "vectors": {name: _plain(one) for name, one in self.vectors.items()},
            "sparse": {name: _plain(one) for name, one in self.sparse.items()},
            "indexes": _INDEXES.dump_python(dict(self.indexes), mode="json", exclude_none=True),
            "graph": None if self.graph is None else _plain(self.graph),
            "quantization": None if self.quantization is None else _plain(self.quantization),
            "payload_on_disk": self.payload_on_disk,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CollectionSchema:
        """Return the schema of `to_json`."""
        made = models.CreateCollection.model_validate(
            {
                "vectors": value["vectors"],
                "sparse_vectors": value["sparse"],
                "hnsw_config": value["graph"],
                "quantization_config": value["quantization"],
            }
        )
        return cls(
            vectors=dict(made.vectors or {}),
            sparse=made.sparse_vectors or {},
            indexes=_INDEXES.validate_python(value["indexes"]),
            graph=made.hnsw_config,
            quantization=made.quantization_config,
            payload_on_disk=value["payload_on_disk"],
        )

    def for_older(self) -> CollectionSchema:
        """Replace `memory` by `on_disk` and `always_ram`, for servers before 1.19."""
        return CollectionSchema(
            vectors={name: _without_memory(one) for name, one in self.vectors.items()},
            sparse={name: _without_memory(one) for name, one in self.sparse.items()},
            indexes={path: _without_memory(one) for path, one in self.indexes.items()},
            graph=_without_memory(self.graph),
            quantization=_without_memory(self.quantization),
            payload_on_disk=self.payload_on_disk,
        )

    def _graph_of(self, vector: models.VectorParams) -> models.HnswConfigDiff | None:
        if vector.hnsw_config is None or self.graph is None:
            return vector.hnsw_config or self.graph
        own = vector.hnsw_config.model_dump(exclude_none=True)
        return self.graph.model_copy(update=own)

    def _vector_descriptions(self) -> dict[str, str]:
        found = {}
        for name, vector in self.vectors.items():
            comparator = vector.multivector_config and vector.multivector_config.comparator.value
            parts = (
                str(vector.size),
                vector.distance.value,
                (vector.datatype or models.Datatype.FLOAT32).value,
                f"multivector {comparator}" if comparator else "",
            )
            found[f"the vector {name!r}"] = " ".join(filter(None, parts))
        for name, sparse in self.sparse.items():
            modifier = sparse.modifier or models.Modifier.NONE
            found[f"the sparse vector {name!r}"] = f"with the modifier {modifier.value}"
        return found


def schema_of(info: models.CollectionInfo, *, embedded: bool) -> CollectionSchema:
    """Return the configuration that a client reports.

    Args:
        info: The answer of the client.
        embedded: True for the embedded client, which reports values of its own for graphs.
    """
    config, params = info.config, info.config.params
    named = params.vectors or {}
    graph = {} if embedded else config.hnsw_config.model_dump(exclude_none=True)
    given = {name: value for name, value in graph.items() if _GRAPH_DEFAULTS.get(name) != value}
    stored = params.on_disk_payload
    if params.payload is not None and params.payload.memory is not None:
        stored = params.payload.memory == models.Memory.COLD
    return CollectionSchema(
        vectors={"": named} if isinstance(named, models.VectorParams) else named,
        sparse=params.sparse_vectors or {},
        indexes={
            path: index.data_type if index.params is None else index.params
            for path, index in info.payload_schema.items()
        },
        graph=models.HnswConfigDiff(**given) if given else None,
        quantization=config.quantization_config,
        payload_on_disk=None if embedded else stored,
    )


def reported_settings(config: models.CollectionConfig) -> dict[str, Any]:
    """Return all settings of a server's answer by path, also those that nothing here knows."""
    settings = config.model_dump(mode="json", exclude_none=True, exclude={"metadata"})
    vectors = settings.get("params", {}).get("vectors", {})
    if "size" in vectors:
        settings["params"]["vectors"] = {"": vectors}
    return dict(_flat(settings, ()))


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, (*path, name))
    else:
        yield ".".join(path), value


def creation_arguments(schema: CollectionSchema) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.create_collection`, without name and metadata."""
    vectors = dict(schema.vectors)
    arguments = {
        "vectors_config": vectors[""] if list(vectors) == [""] else vectors,
        "sparse_vectors_config": dict(schema.sparse) or None,
        "hnsw_config": schema.graph,
        "quantization_config": schema.quantization,
        "on_disk_payload": schema.payload_on_disk,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True)


def _without_memory(value: Any) -> Any:
    """Replace `memory` in a model of `qdrant_client` and in its parts."""
    if not isinstance(value, BaseModel):
        return value
    names = type(value).model_fields
    changes = {name: _without_memory(getattr(value, name)) for name in names}
    memory = changes.pop("memory", None)
    if memory is not None and "always_ram" in names:
        changes |= {"memory": None, "always_ram": memory == models.Memory.PINNED}
    elif memory is not None:
        changes |= {"memory": None, "on_disk": memory == models.Memory.COLD}
    return value.model_copy(update=changes)

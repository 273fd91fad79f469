"""The configuration of a collection, as the server reports it in JSON."""

import copy
from typing import Any

from qdrant_client import models
from tests.support.qdrant_server.calls import Refusal

_HNSW = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
}
_OPTIMIZER = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 2,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
_WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
_CREATED_PARAMS = (
    "vectors", "sparse_vectors", "shard_number", "sharding_method", "replication_factor",
    "write_consistency_factor", "on_disk_payload", "payload", "id_tracker",
)  # fmt: skip


def plain(body: Any) -> Any:
    """Return a model of `qdrant_client` as JSON, without the fields that are not set."""
    return body.model_dump(mode="json", exclude_none=True)


def new_config(body: models.CreateCollection, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a new collection, without its metadata.

    Args:
        body: The request.
        defaults: The server's `shard_number`, `replication_factor`, `write_consistency_factor`.
    """
    given = plain(body)
    for name, vector in named_vectors(given.get("vectors", {})).items():
        _check_datatype(vector, name)
    params = {"vectors": {}, **defaults, "on_disk_payload": True}
    params |= {key: given[key] for key in _CREATED_PARAMS if key in given}
    config = {
        "params": params,
        "hnsw_config": _HNSW | given.get("hnsw_config", {}),
        "optimizer_config": _OPTIMIZER | given.get("optimizers_config", {}),
        "wal_config": _WAL | given.get("wal_config", {}),
        "quantization_config": given.get("quantization_config"),
    }
    if "strict_mode_config" in given:
        config["strict_mode_config"] = given["strict_mode_config"]
    return config


def updated_config(config: dict[str, Any], body: models.UpdateCollection) -> dict[str, Any]:
    """Return the configuration after an update, which changes nothing if it is refused."""
    config, given = copy.deepcopy(config), plain(body)
    config["hnsw_config"] |= given.get("hnsw_config", {})
    config["optimizer_config"] |= given.get("optimizers_config", {})
    config["params"] |= given.get("params", {})
    if "quantization_config" in given:
        config["quantization_config"] = _quantization(given["quantization_config"])
    if "strict_mode_config" in given:
        config["strict_mode_config"] = (
            config.get("strict_mode_config", {}) | given["strict_mode_config"]
        )
    vectors = named_vectors(config["params"]["vectors"])
    for name, diff in given.get("vectors", {}).items():
        vector = _existing(vectors, name)
        if "hnsw_config" in diff:
            vector["hnsw_config"] = vector.get("hnsw_config", {}) | diff["hnsw_config"]
        if "quantization_config" in diff:
            vector["quantization_config"] = _quantization(diff["quantization_config"])
        vector |= {key: diff[key] for key in ("on_disk", "memory") if key in diff}
    sparse = config["params"].get("sparse_vectors", {})
    for name, diff in given.get("sparse_vectors", {}).items():
        vector = _existing(sparse, name)
        index = vector.get("index", {}) | diff.get("index", {})
        vector |= diff | ({"index": index} if index else {})
    return config


def merged_metadata(old: dict[str, Any] | None, diff: dict[str, Any]) -> dict[str, Any]:
    """Return metadata after an update: keys of `diff` replace old ones, and None deletes one."""
    merged = {**(old or {}), **diff}
    return {key: value for key, value in merged.items() if value is not None}


def named_vectors(vectors: dict[str, Any]) -> dict[str, Any]:
    """Return the dense vectors by name; the vector without a name is called ''."""
    return {"": vectors} if "size" in vectors else vectors


def add_vector(config: dict[str, Any], name: str, body: models.VectorNameConfig) -> bool:
    """Add a named vector; return False if it exists with these settings.

    Raises:
        Refusal: It exists with other settings.
    """
    given = plain(body)
    kind, (new,) = next(iter(given)), given.values()
    _check_datatype(new, name)
    params = config["params"]
    dense, sparse = named_vectors(params["vectors"]), params.setdefault("sparse_vectors", {})
    vectors, other = (sparse, dense) if kind == "sparse" else (dense, sparse)
    same = name in vectors and {key: vectors[name].get(key) for key in new} == new
    if name in other or (name in vectors and not same):
        raise Refusal(
            400,
            f"Wrong input: Vector `{name}` already exists with a different configuration",
        )
    if same:
        return False
    vectors[name] = new
    if kind == "dense":
        params["vectors"] = dense  # an unnamed vector is called '' from now on
    return True


def remove_vector(config: dict[str, Any], name: str) -> None:
    """Remove a named vector.

    Raises:
        Refusal: There is none of this name.
    """
    params = config["params"]
    sparse = params.get("sparse_vectors", {})
    vectors = sparse if name in sparse else params["vectors"]
    if name not in vectors or ("size" in params["vectors"] and vectors is not sparse):
        raise _missing_vector(name)
    del vectors[name]


def _existing(vectors: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in vectors:
        raise _missing_vector(name)
    return vectors[name]


def _missing_vector(name: str) -> Refusal:
    return Refusal(400, f"Wrong input: Not existing vector name error: {name}")


def _quantization(given: Any) -> Any:
    return None if given == "Disabled" else given


def _check_datatype(vector: dict[str, Any], name: str) -> None:
    datatype = vector.get("datatype")
    if datatype == "turbo4":
        raise Refusal(
            500,
            "Service internal error: Segment DB create panickedwith:\nnot implemented: turbo4 "
            "datatype storage not yet wired up",
        )
    if datatype not in (None, "float32", "float16", "uint8"):
        raise Refusal(
            400,
            "Format error in JSON body: data did not match any variant of untagged enum "
            f"VectorsConfig (vector {name!r})",
        )

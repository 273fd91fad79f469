"""Graphs of a collection, and what the server says about them."""

import uuid
from typing import Any

from tests.support.qdrant_server.config import named_vectors

_HNSW_DETAILS = ("m", "ef_construct", "full_scan_threshold", "max_indexing_threads", "on_disk")


class Optimizer:
    """Which vectors of a collection have a graph.

    A graph is complete at once: the states in between are set by `Server.status`.
    """

    def __init__(self):
        self.graphs: dict[str, int] = {}
        """Points in the graph of each dense vector."""

    def run(self, config: dict[str, Any], points: int) -> None:
        """Build and drop graphs, after a write or a change of the settings."""
        graphs = {}
        for name, vector in named_vectors(config["params"]["vectors"]).items():
            if not self.edges(config, name):
                graphs[name] = 0  # m = 0 drops the graph of the points that have one
            elif self.is_large(config, vector, points):
                graphs[name] = points
            else:
                graphs[name] = min(self.graphs.get(name, 0), points)
        self.graphs = graphs

    def indexed(self, config: dict[str, Any], points: int) -> int:
        """Return the indexed dense vectors; a large segment without a graph counts as indexed."""
        return sum(
            points if self.is_large(config, vector, points) else self.graphs.get(name, 0)
            for name, vector in named_vectors(config["params"]["vectors"]).items()
        )

    @staticmethod
    def edges(config: dict[str, Any], name: str) -> int:
        """Return `m` of a vector."""
        vector = named_vectors(config["params"]["vectors"])[name]
        return vector.get("hnsw_config", {}).get("m", config["hnsw_config"]["m"])

    @staticmethod
    def is_large(config: dict[str, Any], vector: dict[str, Any], points: int) -> bool:
        """Return True if the vectors exceed the indexing threshold, which is in KB; 0 is never."""
        threshold = config["optimizer_config"]["indexing_threshold"] or 0
        return 0 < threshold < points * vector["size"] * 4 / 1024

    def segments(
        self, config: dict[str, Any], schema: dict[str, Any], points: int
    ) -> list[dict[str, Any]]:
        """Return the segments as telemetry describes them: an empty one, and one that holds all."""
        return [
            self._segment(config, schema, 0, appendable=True),
            self._segment(config, schema, points, appendable=False),
        ]

    def _segment(
        self, config: dict[str, Any], schema: dict[str, Any], points: int, *, appendable: bool
    ) -> dict[str, Any]:
        vectors = named_vectors(config["params"]["vectors"])
        graphs = {name: 0 if appendable else self.graphs.get(name, 0) for name in vectors}
        width = sum(vector["size"] for vector in vectors.values())
        return {
            "info": {
                "uuid": str(uuid.uuid4()),
                "segment_type": "indexed" if any(graphs.values()) else "plain",
                "num_vectors": points * len(vectors),
                "num_points": points,
                "num_deferred_points": 0,
                "num_deleted_deferred_points": 0,
                "num_indexed_vectors": sum(graphs.values()),
                "num_deleted_vectors": 0,
                "vectors_size_bytes": points * width * 4,
                "payloads_size_bytes": 0,
                "ram_usage_bytes": 0,
                "disk_usage_bytes": 0,
                "is_appendable": appendable,
                "index_schema": {
                    name: {**index, "points": points} for name, index in schema.items()
                },
                "vector_data": {
                    name: {
                        "num_vectors": points,
                        "num_indexed_vectors": graphs[name],
                        "num_deleted_vectors": 0,
                    }
                    for name in vectors
                },
            },
            "config": {
                "vector_data": {
                    name: {
                        "size": vector["size"],
                        "distance": vector["distance"],
                        "storage_type": "InRamChunkedMmap" if appendable else "InRamMmap",
                        "index": self._index(config, name, graphs[name]),
                        "quantization_config": vector.get("quantization_config"),
                    }
                    for name, vector in vectors.items()
                },
                "payload_storage_type": {"type": "mmap"},
            },
            "vector_index_searches": [{"index_name": name} for name in vectors],
            "payload_field_indices": [
                {
                    "field_name": name,
                    "index_type": "mutable_map" if appendable else "mmap_map",
                    "points_values_count": points,
                    "points_count": points,
                }
                for name in schema
            ],
        }

    def _index(self, config: dict[str, Any], name: str, points: int) -> dict[str, Any]:
        if not points:
            return {"type": "plain", "options": {}}
        options = {key: config["hnsw_config"][key] for key in _HNSW_DETAILS}
        return {"type": "hnsw", "options": options | {"m": self.edges(config, name)}}


def optimizations(status: str, points: int, asked: str) -> dict[str, Any]:
    """Return the answer about optimizations.

    Args:
        status: State of the collection; a yellow one has a running optimization.
        points: Points in the collection.
        asked: Lists that the request asks for, separated by commas.
    """
    yellow, grey = status == "yellow", status == "grey"
    segment = {"uuid": str(uuid.uuid4()), "points_count": points}
    running = {
        "uuid": str(uuid.uuid4()),
        "optimizer": "indexing",
        "status": "optimizing",
        "segments": [segment],
        "progress": {"name": "Segment Optimizing"},
    }
    answer = {
        "summary": {
            "queued_optimizations": int(grey),
            "queued_segments": int(grey),
            "queued_points": points if grey else 0,
            "idle_segments": 2 - yellow - grey,
        },
        "running": [running] if yellow else [],
    }
    if "queued" in asked:
        answer["queued"] = [{"optimizer": "indexing", "segments": [segment]}] if grey else []
    if "completed" in asked:
        answer["completed"] = []
    if "idle_segments" in asked:
        answer["idle_segments"] = [segment] * (2 - yellow - grey)
    return answer

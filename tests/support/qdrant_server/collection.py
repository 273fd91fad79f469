"""One collection: its settings, and the replicas of its points."""

import copy
import sys
import threading
import time
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.local.local_collection import LocalCollection
from tests.support.qdrant_server.config import merged_metadata, named_vectors
from tests.support.qdrant_server.optimizer import Optimizer
from tests.support.qdrant_server.strict_mode import StrictMode


class Replica:
    """A copy of a collection's points, in the embedded client of a node."""

    def __init__(self, node: int, client: QdrantClient, collection: str):
        self.node, self.client, self.collection = node, client, collection
        self.state = "Active"
        """`Dead` if it missed a write that was acknowledged; it catches up when its node starts."""

    @property
    def local(self) -> LocalCollection:
        return self.client._client.collections[self.collection]

    def create(self, config: dict[str, Any]) -> None:
        """Create the collection in the embedded client."""
        params = config["params"]
        self.client.create_collection(
            self.collection,
            vectors_config={
                name: embedded_params(vector)
                for name, vector in named_vectors(params["vectors"]).items()
            },
            sparse_vectors_config={
                name: models.SparseVectorParams(modifier=vector.get("modifier"))
                for name, vector in params.get("sparse_vectors", {}).items()
            },
        )
        self.local.LARGE_DATA_THRESHOLD = sys.maxsize  # of its warning

    def drop(self) -> None:
        self.client.delete_collection(self.collection)

    def load(self, points: LocalCollection) -> None:
        """Replace the points by a copy of others."""
        self.client._client.collections[self.collection] = copy.deepcopy(points)
        self.state = "Active"

    def points(self) -> dict[Any, tuple[dict[str, Any], Any]]:
        """Return payload and vectors of all points by id, in the order of their first write."""
        found = self.local.retrieve(list(self.local.ids), with_payload=True, with_vectors=True)
        return {point.id: (point.payload, point.vector) for point in found}


class Collection:
    """The state of one collection."""

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        replicas: list[Replica],
    ):
        self.name, self.config, self.replicas = name, config, replicas
        self.metadata: dict[str, Any] | None = None
        self.payload_schema: dict[str, dict[str, Any]] = {}
        """Data type and parameters of the index of each field."""
        self.lock = threading.RLock()
        self.strict_mode, self.optimizer = StrictMode(), Optimizer()
        self.operations = 0
        self.counts: dict[str, int] = {}
        """Numbers of points by filter, until something changes: `describe` asks for several."""
        self._older_metadata: tuple[float, dict[str, Any] | None] = (0.0, None)

    def points(self, node: int | None = None) -> dict[Any, tuple[dict[str, Any], Any]]:
        """Return payload and vectors by id of the replica on a node, or of the first replica.

        They are in the order of their first write. Raises `LookupError` if the node has no replica.
        """
        with self.lock:
            for replica in self.replicas:
                if node is None or replica.node == node:
                    return replica.points()
        raise LookupError(f"node {node} has no replica of {self.name!r}")

    def next_operation(self) -> int:
        self.operations += 1
        return self.operations

    def change_metadata(self, diff: dict[str, Any], delay: float) -> None:
        """Merge into the metadata; for `delay` seconds, answers hold the old ones."""
        self._older_metadata = (time.monotonic() + delay, self.metadata)
        self.metadata = merged_metadata(self.metadata, diff)

    def visible_metadata(self) -> dict[str, Any] | None:
        until, older = self._older_metadata
        return older if time.monotonic() < until else self.metadata

    def count(self, where: models.Filter | None = None) -> int:
        """Count points in the first replica."""
        key = where.model_dump_json() if where else ""
        if key not in self.counts:
            self.counts[key] = self.replicas[0].local.count(count_filter=where).count
        return self.counts[key]

    def optimize(self) -> None:
        """Update the graphs after a change of points or settings."""
        self.counts.clear()
        self.optimizer.run(self.config, self.count())

    def indexed_vectors(self) -> int:
        """Count indexed vectors; sparse vectors always are."""
        sparse = self.config["params"].get("sparse_vectors", {})
        return self.optimizer.indexed(self.config, self.count()) + sum(
            self.count(models.Filter(must=[models.HasVectorCondition(has_vector=name)]))
            for name in sparse
        )

    def schema(self) -> dict[str, dict[str, Any]]:
        """Return the payload indexes with the number of points in each."""
        return {
            name: {
                **index,
                "points": self.count(
                    models.Filter(
                        must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=name))]
                    )
                ),
            }
            for name, index in self.payload_schema.items()
        }


def embedded_params(vector: dict[str, Any]) -> models.VectorParams:
    """Return the parameters that the embedded client needs for a dense vector."""
    known = ("size", "distance", "multivector_config", "datatype")
    return models.VectorParams(**{key: vector[key] for key in known if key in vector})

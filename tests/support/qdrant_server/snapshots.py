"""Snapshots of collections, kept in memory."""

import copy
import hashlib
import time
from dataclasses import dataclass
from typing import Any

from qdrant_client import models
from qdrant_client.local.local_collection import LocalCollection
from tests.support.qdrant_server.calls import Refusal
from tests.support.qdrant_server.collection import Collection


@dataclass(frozen=True)
class Snapshot:
    """Everything that a collection is recovered from."""

    described: models.SnapshotDescription
    config: dict[str, Any]
    metadata: dict[str, Any] | None
    payload_schema: dict[str, Any]
    points: LocalCollection

    def collection(self, name: str, replicas: list[Any]) -> Collection:
        """Return a collection with this state, its points copied to every replica."""
        found = Collection(name, copy.deepcopy(self.config), replicas)
        found.payload_schema = copy.deepcopy(self.payload_schema)
        found.change_metadata(self.metadata or {}, 0.0)
        for replica in replicas:
            replica.load(self.points)
        found.optimize()
        return found


class Snapshots:
    """The snapshots of a server, by collection."""

    def __init__(self):
        self._held: dict[str, list[Snapshot]] = {}

    def create(self, collection: Collection) -> models.SnapshotDescription:
        """Take a snapshot."""
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        name = f"{collection.name}-{time.time_ns()}-{moment.replace(':', '-')}.snapshot"
        points = collection.replicas[0].local
        described = models.SnapshotDescription(
            name=name,
            creation_time=moment,
            size=4096 * (1 + len(points.ids)),
            checksum=hashlib.sha256(name.encode()).hexdigest(),
        )
        snapshot = Snapshot(
            described,
            copy.deepcopy(collection.config),
            copy.deepcopy(collection.metadata),
            copy.deepcopy(collection.payload_schema),
            copy.deepcopy(points),
        )
        self._held.setdefault(collection.name, []).append(snapshot)
        return described

    def of(self, collection: str) -> list[models.SnapshotDescription]:
        """Describe the snapshots of a collection."""
        return [snapshot.described for snapshot in self._held.get(collection, [])]

    def find(self, location: str) -> Snapshot:
        """Return the snapshot at a location, whose last part is its name."""
        name = location.rstrip("/").rpartition("/")[2]
        for snapshots in self._held.values():
            for snapshot in snapshots:
                if snapshot.described.name == name:
                    return snapshot
        raise Refusal(404, f"Not found: Snapshot {name} not found")

    def delete(self, collection: str, name: str) -> bool:
        """Remove a snapshot."""
        self.find(name)
        kept = [s for s in self._held.get(collection, []) if s.described.name != name]
        self._held[collection] = kept
        return True

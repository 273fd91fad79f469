"""Reads and writes of replicas, and payloads as they leave the server."""

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from tests.support.qdrant_server.calls import Call, Refusal
from tests.support.qdrant_server.collection import Collection, Replica
from tests.support.qdrant_server.floats import reread_floats, shuffle_keys

if TYPE_CHECKING:
    from tests.support.qdrant_server.server import Server


class Replication:
    """Chooses replicas by consistency and by the nodes that are up."""

    def __init__(self, server: "Server"):
        self._server = server
        self._dice = random.Random(7)

    def write(self, collection: Collection, call: Call, apply: Callable[[Replica], Any]) -> None:
        """Apply a write to every replica that is up.

        Raises:
            Refusal: With status 500: fewer replicas took the write than the collection's
                `write_consistency_factor`. Those keep it, and no replica is marked dead.
        """
        active = [replica for replica in collection.replicas if replica.state == "Active"]
        up = [replica for replica in active if self._is_up(replica)]
        if call.fault == "partial":
            apply(up[0])
            raise _failed_write(max(1, len(active) - 1), len(active), "Timeout error")
        for replica in up:
            apply(replica)
        missed = [replica for replica in active if replica not in up]
        if len(up) < min(collection.config["params"]["write_consistency_factor"], len(active)):
            raise _failed_write(len(missed), len(active), self._unreachable(missed[0]))
        for replica in missed:
            replica.state = "Dead"

    def reader(self, collection: Collection, call: Call) -> Replica:
        """Return the replica that answers a read: one on the node itself if it has one."""
        return self._readers(collection, call, 1)[0]

    def read(
        self, collection: Collection, call: Call, read: Callable[[Replica], list[Any]]
    ) -> list[Any]:
        """Read as many replicas as the consistency asks for; return the points they agree on."""
        consistency = call.params.get("consistency", "1")
        readable = sum(replica.state == "Active" for replica in collection.replicas)
        needed = {"all": readable, "majority": readable, "quorum": readable // 2 + 1}.get(
            consistency
        ) or min(int(consistency), readable)
        answers = [read(replica) for replica in self._readers(collection, call, max(1, needed))]
        if len(answers) == 1:
            return answers[0]
        votes = Counter(_fingerprint(point) for answer in answers for point in answer)
        enough = needed // 2 + 1 if consistency == "majority" else needed
        return [point for point in answers[0] if votes[_fingerprint(point)] >= enough]

    def present(self, points: list[Any], call: Call) -> None:
        """Change payloads on their way out."""
        for point in points:
            if point.payload is not None:
                point.payload = self.returned(point.payload, call)

    def returned(self, payload: dict[str, Any], call: Call) -> dict[str, Any]:
        """Return a payload, or metadata, as an answer holds it."""
        if self._server.float_noise:
            payload = reread_floats(payload)
        if self._server.shuffle_keys and (call.transport == "grpc" or len(self._server.nodes) > 1):
            payload = shuffle_keys(payload, self._dice)
        return payload

    def _readers(self, collection: Collection, call: Call, needed: int) -> list[Replica]:
        active = [replica for replica in collection.replicas if replica.state == "Active"]
        up = sorted(filter(self._is_up, active), key=lambda replica: replica.node != call.node)
        if len(up) < needed:
            down = next(replica for replica in active if replica not in up)
            raise Refusal(
                500,
                f"Service internal error: {len(active) - len(up)} of {len(active)} read operations "
                f"failed:\n  {self._unreachable(down)}",
            )
        return up[:needed]

    def _is_up(self, replica: Replica) -> bool:
        return self._server.nodes[replica.node].running

    def _unreachable(self, replica: Replica) -> str:
        address = self._server.nodes[replica.node].peer_uri
        return (
            "Service internal error: Tonic status error: code: 'The service is currently "
            f'unavailable\', message: "Failed to connect to {address}, error: transport error"'
        )


def _failed_write(failed: int, replicas: int, reason: str) -> Refusal:
    return Refusal(
        500,
        f"Service internal error: {failed} out of {replicas} shards failed to apply operation. "
        f"First error captured: {reason}",
    )


def _fingerprint(point: Any) -> bytes:
    return orjson.dumps(
        point.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    )

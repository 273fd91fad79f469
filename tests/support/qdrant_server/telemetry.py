"""Answers about nodes and shards."""

import time
from typing import TYPE_CHECKING, Any

from tests.support.qdrant_server.collection import Collection
from tests.support.qdrant_server.config import named_vectors

if TYPE_CHECKING:
    from tests.support.qdrant_server.server import Server

_DETAILS = 2
"""Level of detail from which telemetry describes the shards of each collection."""


def telemetry(server: "Server", level: int) -> dict[str, Any]:
    """Return the part of the telemetry that says which segments have a graph."""
    held = server.collections
    collections: dict[str, Any] = {"number_of_collections": len(held)}
    if level >= _DETAILS:
        collections["collections"] = [_collection(server, found) for found in held.values()]
    return {
        "id": "05b21025-25dd-4cbd-8a0b-3a05a7ffc98d",
        "app": {"name": "qdrant", "version": server.version},
        "collections": collections,
        "cluster": {"enabled": len(server.nodes) > 1},
    }


def _collection(server: "Server", collection: Collection) -> dict[str, Any]:
    with collection.lock:
        config, points = collection.config, collection.count()
        vectors = named_vectors(config["params"]["vectors"])
        shard = {
            "variant_name": "local shard",
            "status": server.current_status,
            "total_optimized_points": sum(collection.optimizer.graphs.values()),
            "vectors_size_bytes": sum(v["size"] for v in vectors.values()) * points * 4,
            "payloads_size_bytes": 0,
            "num_points": points,
            "num_vectors": points * len(vectors),
            "num_vectors_by_name": dict.fromkeys(vectors, points),
            "segments": collection.optimizer.segments(config, collection.payload_schema, points),
        }
    return {
        "id": collection.name,
        "init_time_ms": 1,
        "config": {**config, "uuid": None, "metadata": collection.metadata or {}},
        "shards": [{"id": 0, "key": None, "local": shard, "remote": []}],
        "transfers": [],
        "resharding": [],
    }


def cluster_status(server: "Server", node: int) -> dict[str, Any]:
    """Return the peers of a cluster as one node sees them."""
    if len(server.nodes) == 1:
        return {"status": "disabled"}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    down = [other for other in server.nodes if not other.running]
    failure = {
        "count": 1,
        "latest_error": "Error in closure supplied to transport channel pool: code: 'The service "
        "is currently unavailable'",
        "latest_error_timestamp": now,
    }
    return {
        "status": "enabled",
        "peer_id": server.nodes[node].peer_id,
        "peers": {str(other.peer_id): {"uri": other.peer_uri} for other in server.nodes},
        "raft_info": {
            "term": 1,
            "commit": 1,
            "pending_operations": 0,
            "leader": server.nodes[0].peer_id,
            "role": "Follower" if node else "Leader",
            "is_voter": True,
        },
        "consensus_thread_status": {"consensus_thread_status": "working", "last_update": now},
        "message_send_failures": {other.peer_uri: failure for other in down},
    }


def collection_shards(server: "Server", collection: Collection, node: int) -> dict[str, Any]:
    """Return where the shards of a collection are: all of them on the nodes with a replica."""
    shards = range(collection.config["params"]["shard_number"])
    here = [replica for replica in collection.replicas if replica.node == node]
    elsewhere = [replica for replica in collection.replicas if replica.node != node]
    points, share = collection.count(), len(shards)
    return {
        "peer_id": server.nodes[node].peer_id,
        "shard_count": share,
        "local_shards": [
            {
                "shard_id": shard,
                "points_count": points // share + (shard < points % share),
                "state": replica.state,
            }
            for replica in here
            for shard in shards
        ],
        "remote_shards": [
            {
                "shard_id": shard,
                "peer_id": server.nodes[replica.node].peer_id,
                "state": replica.state,
            }
            for replica in elsewhere
            for shard in shards
        ],
        "shard_transfers": [],
    }

"""Report the state of a collection's index: what is indexed, what is deferred and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from typing import Any

from qdrant_client.http.exceptions import ApiException

from quernstone_qdrant.targets.base import Target
from quernstone_qdrant.targets.client import ClientTarget
from quernstone_qdrant.targets.configuration import version_of
from quernstone_qdrant.targets.deferred_indexing import deferring_loads

TESTED = "1.18.3"
"""Version of the server that this package is tested against."""

STATUS_WORDS = {
    "green": "ready (green)",
    "yellow": "indexing (yellow)",
    "grey": "not indexing until the next write (grey)",
    "red": "indexing failed (red)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """The state of a collection's index."""

    status: str
    segments: int | None
    indexed: int | None
    """Indexed vectors of all names, as the server counts them: also those without a graph."""
    graph: Mapping[str, int] | None
    """Vectors with an HNSW graph, by name, on the node that was asked; None if unknown."""
    deferred: tuple[str, ...] = field(default=())
    """The loads that defer indexing, in words."""
    version: str | None = None
    """Version of the server, or of the embedded engine."""
    warnings: tuple[str, ...] = field(default=())


def index_report(target: Target) -> IndexReport:
    """Read the state of a collection's index.

    Raises:
        TargetError: The collection cannot be read.
    """
    state = target.state()
    found = deferring_loads(state)
    warnings = [version_warning(target.version)] if isinstance(target, ClientTarget) else []
    if target.kind == "server" and not found:
        if state.index.threshold == 0:
            warnings.append("new points are not indexed: indexing_threshold is 0")
        if state.index.m == 0 and not state.index.vectors and not state.config.get("payload_m"):
            warnings.append("m is 0: there is no graph, and every search compares all points")
    return IndexReport(
        status=state.status,
        segments=state.segments,
        indexed=state.indexed,
        graph=_graph(target) if isinstance(target, ClientTarget) else None,
        deferred=tuple(one.describe() for one in found),
        version=_version(target),
        warnings=tuple(warning for warning in warnings if warning),
    )


def version_warning(version: str | None) -> str | None:
    """Return a warning if a server is older or newer than the tested one."""
    known, tested = version_of(version), version_of(TESTED)
    if known is None or tested is None or known == tested:
        return None
    return (
        f"the server ({version}) is {'older' if known < tested else 'newer'} than the tested "
        f"version ({TESTED})"
    )


def graph_counts(telemetry: Mapping[str, Any], collection: str) -> dict[str, int]:
    """Count the vectors with an HNSW graph by name, in the local shards of a node.

    Args:
        telemetry: The server's answer to `/telemetry?details_level=8`.
        collection: Name of the collection.
    """
    counts: dict[str, int] = {}
    for found in (telemetry.get("collections") or {}).get("collections") or ():
        if found.get("id") != collection:
            continue
        for shard in found.get("shards") or ():
            for segment in (shard.get("local") or {}).get("segments") or ():
                indexes = segment.get("config", {}).get("vector_data", {})
                vectors = segment.get("info", {}).get("vector_data", {})
                for name, vector in vectors.items():
                    has_graph = indexes.get(name, {}).get("index", {}).get("type") == "hnsw"
                    counts.setdefault(name, 0)
                    counts[name] += vector.get("num_indexed_vectors", 0) if has_graph else 0
    return counts


def _graph(target: ClientTarget) -> dict[str, int] | None:
    if target.kind != "server":
        return None
    try:
        # Not `service_api.telemetry`: its model requires fields that some versions do not send.
        answer = target.client.http.client.request(
            type_=dict[str, Any], method="GET", url="/telemetry", params={"details_level": "8"}
        )
    except (ApiException, ValueError):
        return None  # the key may not be allowed to read it, or a gateway hides it
    return graph_counts(answer.get("result") or {}, target.collection) or None


def _version(target: Target) -> str | None:
    if isinstance(target, ClientTarget) and target.kind == "server":
        return target.version
    return installed("qdrant-edge-py" if target.kind == "edge" else "qdrant-client")

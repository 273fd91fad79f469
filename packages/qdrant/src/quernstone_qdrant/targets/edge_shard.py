"""Open the shard of an Edge collection, which one process at a time can use."""

from __future__ import annotations

import time
from pathlib import Path

import qdrant_edge as edge

_LOCK_SECONDS = 5.0
"""Seconds to wait for a lock: a process that was just killed may still hold its files."""


def load_shard(shard: Path, config: edge.EdgeConfig | None = None) -> edge.EdgeShard:
    """Open the files of a shard; None keeps its configuration."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return edge.EdgeShard.load(str(shard), config)
        except Exception as error:  # noqa: PERF203 - Edge raises only bare exceptions
            if not is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_SECONDS / 50)


def is_locked(error: Exception) -> bool:
    """Return True if another process has the files open."""
    return "WouldBlock" in str(error)

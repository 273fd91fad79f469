"""What a load did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did, or has done so far.

    `chunks == embedded + skipped` when nothing failed. A batch is counted when Qdrant has confirmed
    it, never before.
    """

    seen: int = 0
    """Records read."""
    chunks: int = 0
    """Chunks they were split into."""
    embedded: int = 0
    """Chunks that were embedded, written, and confirmed by Qdrant."""
    skipped: int = 0
    """Chunks that were there already, unchanged."""
    removed: int = 0
    """Points deleted because their document became shorter."""
    pruned: int = 0
    """Points deleted because their document is gone."""
    failed: int = 0
    """Files, records and chunks that were left out, or stopped the load, because of an error."""
    retries: int = 0
    """Requests to Qdrant that were repeated."""
    stopped: bool = False
    """Whether `QdrantLoader.stop` ended the load before all was read."""
    ignored: tuple[str, ...] = ()
    """What of the collection's settings the target does not have, such as `quantisation`."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """Batches that wait in front of each stage, or are in it."""

    looking_up: int = 0
    embedding: int = 0
    writing: int = 0
    indexing: bool = False
    """Whether all is written, and the load waits for the index."""

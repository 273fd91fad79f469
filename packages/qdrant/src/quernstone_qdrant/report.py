"""The figures of a load."""

from __future__ import annotations

from dataclasses import dataclass

from quernstone_qdrant.sources.walk import FileCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The figures of a load, finished or still running.

    Without failures, `chunks == embedded + skipped`. A batch is counted only once Qdrant has
    confirmed it.
    """

    seen: int = 0
    """Records read."""
    unread: float = 0.0
    """Fraction of the last of these records, by characters, that is not loaded yet: 0 to 1."""
    chunks: int = 0
    """Chunks these records were split into."""
    embedded: int = 0
    """Chunks that were embedded, written, and confirmed by Qdrant."""
    skipped: int = 0
    """Chunks that were already stored with the same text and metadata."""
    refreshed: int = 0
    """Skipped chunks whose payload was written again, because other fields of their LlamaIndex node
    changed, such as ids of related nodes."""
    unconfirmed: int = 0
    """Chunks that were written again although one replica had them, unchanged, because another one
    could not be reached. `embedded` includes them."""
    replaced: int = 0
    """Documents of another source that were replaced, which `replace_sources` allows."""
    removed: int = 0
    """Points deleted because their document became shorter."""
    pruned: int = 0
    """Points deleted because their document no longer exists."""
    failed: int = 0
    """Files, records and chunks whose error was skipped or stopped the load."""
    retries: int = 0
    """Requests to Qdrant that were retried."""
    stopped: bool = False
    """True if `QdrantLoader.stop` ended the load before all records were read."""
    ignored: tuple[str, ...] = ()
    """Collection settings that the target does not support, such as `quantization`."""
    notes: tuple[str, ...] = ()
    """Descriptions of changes of an existing collection, and of deviations from the request."""
    points: int | None = None
    """Points in the collection after the load; approximate on a server. None if unknown."""
    status: str = ""
    """Status of the index after the load: `green`, `yellow` (indexing), `grey` or `red`."""
    files: FileCounts | None = None
    """The files found, loaded and skipped; None if the records did not come from `read_paths`."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """The number of batches in or waiting for each stage of a load."""

    looking_up: int = 0
    embedding: int = 0
    writing: int = 0
    indexing: bool = False
    """True once everything is written and the load waits for the index."""
    index: str = ""
    """Description of what the server's optimizer runs meanwhile."""

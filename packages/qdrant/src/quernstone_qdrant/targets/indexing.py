"""Defer a server's indexing during a bulk load, restore it afterwards, and wait for it.

A server that builds its HNSW graph while data arrives builds much of it again when it merges
segments. The embedded client has no index and Edge only builds one on request, so this module is
about servers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from qdrant_client import models

from quernstone_qdrant.errors import CollectionError, TargetError, TransientError
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import DeferIndex
from quernstone_qdrant.targets.base import CollectionState

DEFERRED_KEY = "quernstone_deferred"
"""Key of the collection's metadata that holds the original values while indexing is deferred."""

_DEFAULT_THRESHOLD = 10_000
"""Indexing threshold in KB for a server that does not report one (Qdrant's default since 1.16)."""
_RESTORE_PATIENCE = 60.0
"""Seconds to keep retrying when the server is unreachable at the end of a load."""
_GREEN_ANSWERS = 2
"""Consecutive green answers required: a server is also green between two optimisations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Settings that decide when and how densely a server indexes; None leaves one unchanged."""

    m: int | None = None
    """Edges per node of the graph, for the vectors without a value of their own."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """`m` of the vectors that set their own, by name."""
    threshold: int | None = None
    """Size in KB from which a segment's vectors are indexed; 0 disables indexing."""


class IndexedCollection(Protocol):
    """A server's collection whose indexing can be changed; `ClientTarget` implements it."""

    @property
    def collection(self) -> str:
        """Name of the collection."""
        ...

    def state(self) -> CollectionState:
        """Read the collection's state."""
        ...

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Merge `metadata` into the collection's metadata."""
        ...

    def read_index(self) -> IndexConfig:
        """Read the index settings."""
        ...

    def change_index(self, config: IndexConfig) -> None:
        """Set the values of `config` that are not None."""
        ...


def index_config(config: models.CollectionConfig) -> IndexConfig:
    """Extract the index settings from a server's answer."""
    named = config.params.vectors or {}
    if isinstance(named, models.VectorParams):
        named = {"": named}
    return IndexConfig(
        m=config.hnsw_config.m,
        vectors={
            name: vector.hnsw_config.m
            for name, vector in named.items()
            if vector.hnsw_config is not None and vector.hnsw_config.m is not None
        },
        threshold=config.optimizer_config.indexing_threshold,
    )


def index_arguments(config: IndexConfig) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.update_collection` without the collection's name.

    An update that changes nothing still wakes the server's optimiser.
    """
    arguments: dict[str, Any] = {
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=config.threshold)
    }
    if config.m is not None:
        arguments["hnsw_config"] = models.HnswConfigDiff(m=config.m)
    if config.vectors:
        arguments["vectors_config"] = {
            name: models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=m))
            for name, m in config.vectors.items()
        }
    return arguments


@contextmanager
def deferred_index(target: IndexedCollection, how: DeferIndex) -> Iterator[None]:
    """Defer indexing inside the block and restore it at the end, also after an error.

    The original values are saved in the collection's metadata first. If the process is killed, the
    next load restores them: at its start with `none`, otherwise at its end.

    Args:
        target: A server's collection.
        how: `none` only restores values that an interrupted load left deferred.

    Raises:
        TargetError: The server failed. If it failed while restoring, the next load restores.
    """
    original = _saved_config(target)
    if how == "none":
        if original is not None:
            _restore(target, original)
        yield
        return
    if original is None:
        original = _config_to_change(target.read_index(), how)
        target.describe({DEFERRED_KEY: asdict(original)})
    target.change_index(_deferred(original))
    try:
        yield
    except BaseException:
        # Report the error that ended the load; if restoring fails as well, the next load restores.
        with suppress(TargetError):
            _restore(target, original)
        raise
    Retry(_RESTORE_PATIENCE).call(lambda: _restore(target, original))


def wait_until_green(target: IndexedCollection, timeout: float, *, interval: float = 1.0) -> None:
    """Wait until a server has indexed what was written.

    A yellow collection is being optimised. A grey one has pending optimisations after a restart and
    waits for an update, so this function sends an empty one. A small collection is green without an
    index, which is normal.

    Args:
        target: A server's collection.
        timeout: Seconds to wait.
        interval: Seconds between two checks.

    Raises:
        CollectionError: The optimiser failed; the error holds its message.
        TargetError: The collection is not green in time.
    """
    deadline = time.monotonic() + timeout
    green_answers = 0
    while True:
        late = time.monotonic() >= deadline
        try:
            state = target.state()
            if state.status == "grey":
                target.change_index(IndexConfig())
        except TransientError:
            if late:
                raise
            green_answers = 0  # the server may be restarting
        else:
            if state.failure is not None or state.status == "red":
                why = state.failure or "the server gives no reason; see its log"
                raise CollectionError(target.collection, f"its optimiser failed: {why}")
            green = state.status == "green" and not state.queued
            green_answers = green_answers + 1 if green else 0
            if green_answers == _GREEN_ANSWERS:
                return
            if late:
                raise TargetError(
                    f"collection {target.collection!r} is still {state.status} after "
                    f"{timeout:g} s, with {state.queued} writes queued; the server continues to "
                    "index in the background"
                )
        time.sleep(interval)


def _saved_config(target: IndexedCollection) -> IndexConfig | None:
    """Return the original values if an interrupted load did not restore them."""
    stored = target.state().metadata.get(DEFERRED_KEY)
    return IndexConfig(**stored) if isinstance(stored, dict) else None


def _config_to_change(config: IndexConfig, how: DeferIndex) -> IndexConfig:
    """Return the part of `config` that deferring will change."""
    if how == "m0":
        return IndexConfig(m=config.m, vectors={n: m for n, m in config.vectors.items() if m})
    threshold = config.threshold
    return IndexConfig(threshold=_DEFAULT_THRESHOLD if threshold is None else threshold)


def _deferred(original: IndexConfig) -> IndexConfig:
    return IndexConfig(
        m=None if original.m is None else 0,
        vectors=dict.fromkeys(original.vectors, 0),
        threshold=None if original.threshold is None else 0,
    )


def _restore(target: IndexedCollection, original: IndexConfig) -> None:
    target.change_index(original)
    target.describe({DEFERRED_KEY: None})

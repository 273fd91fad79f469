"""When a server indexes: put off during a bulk load, put back afterwards, and waited for.

Building the HNSW graph while data comes in costs a server time that it will spend again when
segments are merged. The embedded client has no index and Edge builds its own when asked, so this is
about servers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from quernstone_qdrant.errors import CollectionError, TargetError, TransientError
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import DeferIndex

if TYPE_CHECKING:
    from quernstone_qdrant.targets.client import ClientTarget

DEFERRED_KEY = "quernstone_deferred"
"""Where the collection's metadata holds the original values while indexing is put off."""

_DEFAULT_THRESHOLD = 10_000
"""In KB: Qdrant's own since 1.16, for a server that does not say its value."""
_PATIENCE = 60.0
"""Seconds for which the values are tried to be put back, when a server is away in the end."""
_CALM = 2
"""Green answers in a row before it is believed: between two optimisations it is green, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """What decides when and how densely a server indexes; None: unchanged."""

    m: int | None = None
    """Edges per node of the graph, for all vectors that do not say otherwise."""
    vectors: Mapping[str, int] = field(default_factory=dict)
    """`m` of the vectors that do."""
    threshold: int | None = None
    """KB of vectors from which on a segment is indexed; 0: never."""


def index_config(config: models.CollectionConfig) -> IndexConfig:
    """Read what a server says."""
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
    """Arguments of `QdrantClient.update_collection`, apart from the collection.

    With nothing to change, the update still wakes a server's optimiser up.
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
def deferred_index(target: ClientTarget, how: DeferIndex) -> Iterator[None]:
    """Put indexing off inside, and back at the end, whatever happens.

    The original values are in the collection's metadata before anything is changed. So after a
    crash the next load puts them back, or goes on without an index and puts them back at its end.

    Args:
        target: A server's collection.
        how: `none` only puts back what a crash has left behind.

    Raises:
        TargetError: The server failed. If it did when putting the values back, the next load will.
    """
    original = _left_behind(target)
    if how == "none":
        if original is not None:
            _restore(target, original)
        yield
        return
    if original is None:
        original = _originals(target.read_index(), how)
        target.describe({DEFERRED_KEY: asdict(original)})
    target.change_index(_deferred(original))
    try:
        yield
    except BaseException:
        # The error that ended the load is the one to report; the metadata remembers the rest.
        with suppress(TargetError):
            _restore(target, original)
        raise
    Retry(_PATIENCE).call(lambda: _restore(target, original))


def wait_until_green(target: ClientTarget, timeout: float, *, interval: float = 1.0) -> None:
    """Wait until a server has indexed what was written.

    Yellow means that it is at work. Grey means that it was started anew and waits for a write
    before it goes on, so it gets an empty one. A small collection is green without an index: that
    is as it should be.

    Args:
        target: A server's collection.
        timeout: In seconds.
        interval: Between two questions, in seconds.

    Raises:
        CollectionError: The optimiser failed; the error holds what it said.
        TargetError: The collection is not green in time.
    """
    deadline = time.monotonic() + timeout
    calm = 0
    while True:
        late = time.monotonic() >= deadline
        try:
            state = target.state()
            if state.status == "grey":
                target.change_index(IndexConfig())
        except TransientError:
            if late:
                raise
            calm = 0  # it may be starting anew
        else:
            if state.failure is not None or state.status == "red":
                why = state.failure or "the server does not say why; see its log"
                raise CollectionError(target.collection, f"its optimiser failed: {why}")
            calm = calm + 1 if state.status == "green" and not state.queued else 0
            if calm == _CALM:
                return
            if late:
                raise TargetError(
                    f"collection {target.collection!r} is still {state.status} after "
                    f"{timeout:g} s, with {state.queued} writes in its queue; it goes on "
                    "indexing by itself"
                )
        time.sleep(interval)


def _left_behind(target: ClientTarget) -> IndexConfig | None:
    """The original values, if a load was killed before it could put them back."""
    stored = target.state().metadata.get(DEFERRED_KEY)
    return IndexConfig(**stored) if isinstance(stored, dict) else None


def _originals(config: IndexConfig, how: DeferIndex) -> IndexConfig:
    """The values that are going to be changed."""
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


def _restore(target: ClientTarget, original: IndexConfig) -> None:
    target.change_index(original)
    target.describe({DEFERRED_KEY: None})

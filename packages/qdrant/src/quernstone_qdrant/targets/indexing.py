"""Wait for a server to index what was written, and describe the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from qdrant_client import models

from quernstone_qdrant.errors import CollectionError, TargetError, TransientError
from quernstone_qdrant.targets.base import CollectionState, IndexConfig

_GREEN_ANSWERS = 2
"""Consecutive green answers required: a server is also green between two optimizations."""


class IndexedCollection(Protocol):
    """A server's collection that is indexed in the background; `ClientTarget` implements it."""

    @property
    def collection(self) -> str:
        """Name of the collection."""
        ...

    def state(self) -> CollectionState:
        """Read the collection's state."""
        ...

    def optimizations(self) -> str:
        """Describe what the optimizer runs; empty if it runs nothing."""
        ...

    def change_index(self, config: IndexConfig) -> None:
        """Set the values of `config` that are not None."""
        ...


def wait_until_green(
    target: IndexedCollection,
    timeout: float,
    *,
    interval: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Wait until a server has indexed what was written.

    A yellow collection is being optimized. A grey one has pending optimizations after a restart and
    waits for an update, so this function sends an empty one. A small collection is green without an
    index, which is normal.

    Args:
        target: A server's collection.
        timeout: Seconds to wait.
        interval: Seconds between two checks.
        progress: Called at every check with what the optimizer runs, in words.

    Raises:
        CollectionError: The optimizer failed; the error holds its message.
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
                raise CollectionError(target.collection, f"its optimizer failed: {why}")
            progress(target.optimizations())
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


def running_optimizations(response: models.OptimizationsResponse) -> str:
    """Describe in a few words what the optimizer runs and what waits."""
    parts = []
    for running in response.running:
        steps = list(_steps(running.progress))
        done, total = (sum(step[i] for step in steps) for i in (0, 1))
        parts.append(f"{running.optimizer} {done / total:.0%}" if total else running.optimizer)
    summary = response.summary
    if summary.queued_optimizations:
        parts.append(f"{summary.queued_optimizations} queued with {summary.queued_points:,} points")
    return ", ".join(parts)


def _steps(tree: models.ProgressTree) -> Iterator[tuple[int, int]]:
    """Yield (done, total) of the innermost steps that count something."""
    children = tree.children or []
    for child in children:
        yield from _steps(child)
    if not children and tree.total:
        yield tree.done or 0, tree.total

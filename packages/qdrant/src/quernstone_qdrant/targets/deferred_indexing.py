"""Defer a server's indexing while loads run, and restore it after the last one.

A server that builds its HNSW graph while data arrives builds much of it again when it merges
segments. Each load that defers indexing registers itself under a key of its own in the collection's
metadata, with the original index settings. So no registration overwrites another, a load that ends
sees whether others still run, and the original settings survive a crash.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from quernstone_qdrant.errors import CollectionError, TargetError
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import DeferIndex
from quernstone_qdrant.targets.base import CollectionState, IndexConfig
from quernstone_qdrant.targets.indexing import IndexedCollection

DEFERRED_KEY = "quernstone_deferred"
"""Metadata key of a load that defers indexing. Version 0.1.0 used this key; newer versions append a
colon and the id of the load."""

_DEFAULT_THRESHOLD = 10_000
"""Indexing threshold in KB for a server that does not report one (Qdrant's default since 1.16)."""
_PATIENCE = 60.0
"""Seconds to keep retrying when the server is unreachable."""
_RENEW_SECONDS = 20.0
"""How often a running load renews its registration."""
_STALE_SECONDS = 120.0
"""Age from which a registration that was not renewed belongs to a load that crashed."""
_METADATA_PATIENCE = 10.0
"""Seconds until a cluster must show metadata that it has accepted."""
_RUNNING: set[str] = set()
"""Keys of the registrations of this process's running loads."""


class DeferrableCollection(IndexedCollection, Protocol):
    """A server's collection whose indexing can be deferred; `ClientTarget` implements it."""

    def count(self) -> int:
        """Return the exact number of points."""
        ...

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Merge `metadata` into the collection's metadata."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One load that defers the indexing of a collection."""

    key: str
    """Its key in the collection's metadata."""
    original: IndexConfig
    """The index settings from before any load deferred indexing."""
    how: str = ""
    since: float = 0.0
    """Start of the load, in seconds since 1970."""
    renewed: float = 0.0
    """Time of the last renewal, in seconds since 1970."""
    ended: bool = False
    """True if the load has ended while another one still defers indexing, which restores it."""
    machine: str = ""
    """Machine and process namespace in which `process` is unique; empty if unknown."""
    process: int = 0
    """Id of the load's process."""

    @property
    def running(self) -> bool:
        """False if the load has ended or crashed."""
        if self.ended or (self.machine and self.machine == _machine() and not self._exists()):
            return False
        return time.time() - self.renewed < _STALE_SECONDS

    def describe(self) -> str:
        """Return when the load began, and whether it still runs."""
        if not self.since:
            return "a load of an older version that did not end properly"
        began = datetime.fromtimestamp(self.since, tz=timezone.utc)
        state = "running" if self.running else "ended" if self.ended else "crashed"
        return f"a load that began at {began:%Y-%m-%d %H:%M:%S} UTC ({state})"

    def metadata(self) -> dict[str, Any]:
        """Build the metadata to store with the collection."""
        stored = asdict(self)
        return {stored.pop("key"): {**stored.pop("original"), **stored}}

    def _exists(self) -> bool:
        if self.process == os.getpid():
            return self.key in _RUNNING
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def deferring_loads(state: CollectionState) -> list[Registration]:
    """Return the registrations of loads that deferred indexing, oldest first."""
    found = []
    for key, stored in state.metadata.items():
        if key.partition(":")[0] != DEFERRED_KEY or not isinstance(stored, dict):
            continue
        original = IndexConfig(
            m=stored.get("m"),
            vectors=stored.get("vectors") or {},
            threshold=stored.get("threshold"),
        )
        names = ("how", "since", "renewed", "ended", "machine", "process")
        found.append(
            Registration(key=key, original=original, **{n: stored[n] for n in names if n in stored})
        )
    return sorted(found, key=lambda one: one.since)


@contextmanager
def deferred_index(target: DeferrableCollection, how: DeferIndex) -> Iterator[list[str]]:
    """Defer indexing inside the block. The last load that defers it restores it.

    Args:
        target: A server's collection.
        how: `none` defers nothing, but restores what crashed loads left deferred. `m0` is replaced
            by `threshold` if the collection holds points.

    Yields:
        Notes for the user, appended as they arise.

    Raises:
        CollectionError: The server does not keep the original settings in the metadata.
        TargetError: The server failed. If it failed while restoring, the next load restores.
    """
    notes: list[str] = []
    retry = Retry(_PATIENCE)
    if how == "none":
        retry.call(lambda: _end_crashed(target, notes))
        yield notes
        if running := retry.call(lambda: _end_crashed(target, notes)):
            notes.append(_still_deferred(running[0]))
        return
    if how == "m0" and (points := retry.call(target.count)):
        how = "threshold"
        notes.append(
            f"index deferred by `threshold` instead of `m0`: the collection holds {points:,} "
            "points, and `m0` would drop their graph"
        )
    mine = retry.call(lambda: _registration(target, how))
    try:
        with _running(target, mine):
            retry.call(lambda: _write(target, mine))
            retry.call(lambda: target.change_index(_deferred(mine.original, how)))
            yield notes
    except BaseException:
        # Report the error that ended the load; if restoring fails as well, the next load restores.
        with suppress(TargetError):
            _end(target, mine, notes)
        raise
    retry.call(lambda: _end(target, mine, notes))


def restore_index(target: DeferrableCollection) -> list[Registration]:
    """Restore the original index settings now, even if a load that deferred them still runs.

    Returns:
        The registrations that ended; empty if indexing was not deferred.

    Raises:
        TargetError: The server failed, or did not take the original settings.
    """
    found = deferring_loads(target.state())
    if found:
        _restore(target, found[0].original, found)
    return found


def _registration(target: DeferrableCollection, how: DeferIndex) -> Registration:
    """Return the registration of a new load, with the original settings."""
    # Metadata and settings come from one response. If it has no registration, the settings are the
    # original ones, even if several loads begin at once.
    state = target.state()
    others = deferring_loads(state)
    now = time.time()
    return Registration(
        key=f"{DEFERRED_KEY}:{uuid4().hex[:12]}",
        original=_complete(others[0].original if others else state.index, state.index),
        how=how,
        since=now,
        renewed=now,
        machine=_machine(),
        process=os.getpid(),
    )


def _write(target: DeferrableCollection, mine: Registration) -> list[Registration]:
    """Store a registration, and return all of them as the server shows them with it.

    A node of a cluster applies changes in one order: once it shows this registration, it shows
    those that were stored before as well.
    """
    target.describe(mine.metadata())
    deadline = time.monotonic() + _METADATA_PATIENCE
    while True:
        found = deferring_loads(target.state())
        shown = {one.key: one for one in found}.get(mine.key)
        if shown is None and mine.ended:
            return found  # another load has restored the index, and removed this registration
        if shown is not None and (shown.original, shown.ended) == (mine.original, mine.ended):
            return found
        if time.monotonic() >= deadline:
            raise CollectionError(
                target.collection,
                "the server does not keep the original index settings in the collection's "
                "metadata, so that indexing cannot be deferred safely; load without `defer_index`",
            )
        time.sleep(_METADATA_PATIENCE / 100)


def _complete(original: IndexConfig, now: IndexConfig) -> IndexConfig:
    """Fill in the settings that an older version did not save, because it did not change them."""
    threshold = original.threshold if original.threshold is not None else now.threshold
    return IndexConfig(
        m=original.m if original.m is not None else now.m,
        vectors={**now.vectors, **original.vectors},
        threshold=_DEFAULT_THRESHOLD if threshold is None else threshold,
    )


def _deferred(original: IndexConfig, how: DeferIndex) -> IndexConfig:
    if how == "threshold":
        return IndexConfig(threshold=0)
    return IndexConfig(m=0, vectors={name: 0 for name, m in original.vectors.items() if m})


def _end_crashed(target: DeferrableCollection, notes: list[str]) -> list[Registration]:
    """Restore the index if only crashed loads have deferred it; return those that still run."""
    found = deferring_loads(target.state())
    running = [one for one in found if one.running]
    if found and not running:
        _restore(target, found[0].original, found)
        notes.append(f"restored the index settings that {found[0].describe()} had deferred")
    return running


def _end(target: DeferrableCollection, mine: Registration, notes: list[str]) -> None:
    """Restore the index unless another load still defers it."""
    # Mark the end before looking for others: of two loads that end at once, at least one sees
    # that both have ended.
    found = _write(target, replace(mine, ended=True))
    running = [one for one in found if one.running]
    if running:
        notes.append(_still_deferred(running[0]))
    else:
        _restore(target, mine.original, found)


def _restore(
    target: DeferrableCollection, original: IndexConfig, ended: list[Registration]
) -> None:
    target.change_index(original)
    state = target.state()
    now = state.index
    wrong = [
        f"{what} is {found} instead of {wanted}"
        for what, found, wanted in (
            ("m", now.m, original.m),
            ("indexing_threshold", now.threshold, original.threshold),
            *((f"m of {n}", now.vectors.get(n), m) for n, m in original.vectors.items()),
        )
        if wanted is not None and found != wanted
    ]
    if wrong and not any(one.running for one in deferring_loads(state)):  # else one began meanwhile
        raise TargetError(
            f"the index of collection {target.collection!r} is still deferred: {', '.join(wrong)}; "
            "run `quern collection index --restore`"
        )
    target.describe({one.key: None for one in ended})


def _still_deferred(other: Registration) -> str:
    return (
        f"indexing stays deferred by {other.describe()}, which restores it; if it does not run any "
        "more, `quern collection index --restore` does"
    )


@contextmanager
def _running(target: DeferrableCollection, mine: Registration) -> Iterator[None]:
    """Renew a registration inside the block, so that the load does not count as crashed."""
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.wait(_RENEW_SECONDS):
            # An unreachable server is reported by the load itself; the next renewal tries again.
            with suppress(TargetError):
                target.describe(replace(mine, renewed=time.time()).metadata())

    thread = threading.Thread(target=renew, name="defer-index", daemon=True)
    _RUNNING.add(mine.key)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        _RUNNING.discard(mine.key)


def _machine() -> str:
    """Identify this boot of this machine and its set of process ids; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""

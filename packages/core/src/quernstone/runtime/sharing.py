"""One backend per configuration: sessions of equal `EngineConfig` share it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from quernstone.runtime.worker import Worker
from quernstone.types import Backend, EngineConfig


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    backend: Backend | None = None
    users: int = 0


_shared: dict[EngineConfig, _Shared] = {}
# Reentrant: garbage collection may release an embedder while this thread is in `acquire`.
_shared_lock = threading.RLock()


def acquire(config: EngineConfig, start: Callable[[], Backend]) -> Backend:
    """Return the process's backend for `config`, starting it on first use.

    Every `acquire` needs one `release`; the last one closes the backend.
    """
    with _shared_lock:
        entry = _shared.setdefault(config, _Shared())
        entry.users += 1
    try:
        with entry.lock:
            if entry.backend is None:
                entry.backend = start()
            return entry.backend
    except BaseException:
        release(config)
        raise


def release(config: EngineConfig) -> None:
    """Undo one `acquire` of `config`."""
    with _shared_lock:
        entry = _shared[config]
        entry.users -= 1
        if entry.users:
            return
        del _shared[config]
    if entry.backend is not None:
        entry.backend.close()


def _in_child() -> None:
    """Replace the locks. New sessions load again what the child cannot use."""
    global _shared_lock
    _shared_lock = threading.RLock()
    for entry in _shared.values():
        entry.lock = threading.Lock()
        if isinstance(entry.backend, Worker) and entry.backend.is_lost:
            entry.backend = None


if hasattr(os, "register_at_fork"):  # not on Windows; called after the hook of workers
    os.register_at_fork(after_in_child=_in_child)

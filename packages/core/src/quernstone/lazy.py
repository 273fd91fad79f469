"""Loading on first use, for framework objects that are created, copied and pickled freely."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from quernstone.errors import ConfigError

Core = TypeVar("Core", bound="Closable")


class Closable(Protocol):
    """An object that holds a model."""

    def close(self) -> None:
        """Release the model."""


class Lazy(Generic[Core]):
    """The core object of one adapter, built on first use.

    Until then the adapter is only configuration: cheap to construct, compare, copy and pickle.
    Pickles and deep copies are empty, so weights are never serialized. Pydantic's shallow
    `model_copy(update=...)` shares a `Lazy` between adapters of different settings, so it keeps
    one object per settings.
    """

    def __init__(self, build: Callable[..., Core]) -> None:
        self._build = build
        self._built: dict[Hashable, Core] = {}
        self._locks: dict[int, threading.Lock] = {}  # a forked child needs one of its own

    def get(self, settings: dict[str, Any]) -> Core:
        """Return the object for `settings`, built once for all threads."""
        key = freeze(settings)
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if key not in self._built:
                self._built[key] = self._build(**settings)
            return self._built[key]

    def built(self, settings: dict[str, Any]) -> Core | None:
        """Return the object for `settings` if it exists."""
        return self._built.get(freeze(settings))

    def close(self, settings: dict[str, Any]) -> None:
        """Close the object for `settings` if it exists; `get` then builds another one."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            core = self._built.pop(freeze(settings), None)
        if core is not None:
            core.close()

    async def aget(self, settings: dict[str, Any]) -> Core:
        """Like `get`, without blocking the event loop while a model loads."""
        built = self._built.get(freeze(settings))
        return built if built is not None else await asyncio.to_thread(self.get, settings)

    def __reduce__(self) -> tuple[type[Lazy[Core]], tuple[Callable[..., Core]]]:
        return type(self), (self._build,)

    # Pydantic also compares private attributes; loading a model must not affect equality.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy)

    def __hash__(self) -> int:
        return hash(Lazy)


def freeze(value: object) -> Hashable:
    """Return a hashable key of nested settings, or raise a `ConfigError` if there cannot be one."""
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            names = list(value)
            raise ConfigError(f"`engine_options` has a name that is not a string among {names}")
        return ("mapping", *((name, freeze(value[name])) for name in sorted(value)))
    if isinstance(value, (list, tuple)):
        return ("list", *map(freeze, value))
    if isinstance(value, Hashable):
        # True, 1 and 1.0 are equal, but different settings.
        return (type(value).__name__, value)
    raise ConfigError(f"`engine_options` holds a {type(value).__name__}, which cannot be compared")

"""Load a model on first use, for framework objects, which are often created and copied."""

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
    """The `Embedder` or `Reranker` of an adapter, created on first use.

    Until then the adapter is only configuration: cheap to construct, compare, copy and pickle.
    Pickles and deep copies are empty, so weights are never serialized. Pydantic's
    `model_copy(update=...)` makes a shallow copy, so adapters with different settings may share
    one `Lazy`. Therefore it keeps an object for each set of settings.
    """

    def __init__(self, build: Callable[..., Core]) -> None:
        self._build = build
        self._built: dict[Hashable, Core] = {}
        self._locks: dict[int, threading.Lock] = {}  # one per process: a fork may copy a held lock

    def get(self, settings: dict[str, Any]) -> Core:
        """Return the object for `settings`, created once for all threads."""
        key = freeze(settings)
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if key not in self._built:
                self._built[key] = self._build(**settings)
            return self._built[key]

    def built(self, settings: dict[str, Any]) -> Core | None:
        """Return the object for `settings` if it exists."""
        return self._built.get(freeze(settings))

    def close(self, settings: dict[str, Any]) -> None:
        """Close the object for `settings` if it exists; the next `get` creates another one."""
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
    """Return a hashable key for nested settings.

    Raises:
        ConfigError: A value is not hashable, or a mapping has a name that is not a string.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            names = list(value)
            raise ConfigError(f"all names in `engine_options` must be strings; they are {names}")
        return ("mapping", *((name, freeze(value[name])) for name in sorted(value)))
    if isinstance(value, (list, tuple)):
        return ("list", *map(freeze, value))
    if isinstance(value, Hashable):
        # True, 1 and 1.0 are equal, but different settings.
        return (type(value).__name__, value)
    raise ConfigError(
        f"`engine_options` contains a {type(value).__name__}, which is not hashable, so equal "
        "settings could not share a model: pass numbers, strings, lists or mappings"
    )

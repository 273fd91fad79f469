"""Loading on first use, for the objects of frameworks that are made, copied and pickled freely."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from quernstone.errors import ConfigError

Core = TypeVar("Core")


class Lazy(Generic[Core]):
    """The core object of one adapter, built on first use.

    Until then the adapter is configuration only: cheap to construct, compare, copy and pickle. A
    holder pickles and deep-copies empty, so weights are never serialised. Pydantic's shallow
    `model_copy(update=...)` shares the holder between adapters of different settings, which is
    why what is built is kept per settings.
    """

    def __init__(self, build: Callable[..., Core]) -> None:
        self._build = build
        self._built: dict[Hashable, Core] = {}
        self._lock = threading.Lock()

    def get(self, settings: dict[str, Any]) -> Core:
        """Return the object for `settings`, built once whatever the number of threads."""
        key = freeze(settings)
        with self._lock:
            if key not in self._built:
                self._built[key] = self._build(**settings)
            return self._built[key]

    async def aget(self, settings: dict[str, Any]) -> Core:
        """`get` for coroutines: a model that is still to be loaded does not block the loop."""
        built = self._built.get(freeze(settings))
        return built if built is not None else await asyncio.to_thread(self.get, settings)

    def __reduce__(self) -> tuple[type[Lazy[Core]], tuple[Callable[..., Core]]]:
        return type(self), (self._build,)

    # Pydantic compares private attributes too; what is loaded makes no difference to equality.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy)

    def __hash__(self) -> int:
        return hash(Lazy)


def freeze(value: object) -> Hashable:
    """What two equal settings have in common: nested mappings and lists as something hashable.

    Raises:
        ConfigError: Something in it can be neither hashed nor taken apart.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            msg = f"`engine_options` has a name that is not a string among {list(value)}"
            raise ConfigError(msg)
        return ("mapping", *((name, freeze(value[name])) for name in sorted(value)))
    if isinstance(value, (list, tuple)):
        return ("list", *map(freeze, value))
    if isinstance(value, Hashable):
        # True, 1 and 1.0 are equal and not the same setting
        return (type(value).__name__, value)
    msg = f"`engine_options` holds a {type(value).__name__}, which cannot be compared"
    raise ConfigError(msg)

"""Load, close and count the usage of an adapter's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quernstone.types import Usage

if TYPE_CHECKING:
    from quernstone.lazy import Lazy


class ModelHolder:
    """Base of adapters, whose model is loaded by the first call."""

    if TYPE_CHECKING:
        _core: Lazy[Any]

        def _settings(self) -> dict[str, Any]: ...

    def warm_up(self) -> None:
        """Load the model now, so that the first call does not wait for it."""
        self._core.get(self._settings())

    def close(self) -> None:
        """Release the model, which is unloaded when nothing else in the process uses it.

        The next call loads it again.
        """
        self._core.close(self._settings())

    @property
    def usage(self) -> Usage:
        """Number of inputs, tokens and truncated inputs so far; zeros before the first call."""
        core = self._core.built(self._settings())
        return Usage() if core is None else core.usage

"""Decide when a worker prepares later batches, such as by recording CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from quernstone.types import Engine

# A worker that is never idle does a step after this many seconds, so that it finishes eventually.
_BUSY_SECONDS = 1.0


class Preparation:
    """The steps of `PreparingEngine.prepare`, done between batches and never inside one."""

    def __init__(self, engine: Engine[Any]) -> None:
        self._step: Callable[[], bool] | None = getattr(engine, "prepare", None)
        self.pending = self._step is not None
        """True if steps are left to do."""
        self._last = time.monotonic()

    def is_due(self, *, idle: bool) -> bool:
        """Return True if a step should be done now."""
        return self.pending and (idle or time.monotonic() - self._last >= _BUSY_SECONDS)

    def do_step(self) -> None:
        """Do one step."""
        self.pending = self._step is not None and self._step()
        self._last = time.monotonic()

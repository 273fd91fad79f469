"""Gives memory back that the C library keeps of what was freed.

The tensors of a batch come and go by the megabyte between small objects that stay, and the room
that one batch leaves seldom fits the next. Over a long job glibc's heap so grew by a third.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# Between two trims, which take 20 ms each: 20 large batches of a small model, five seconds.
_TOKENS = 160_000


class Heap:
    """The process's heap, for an engine that computes in it."""

    def __init__(self) -> None:
        self._tokens = 0
        self._malloc_trim = _malloc_trim()

    def before(self, tokens: int) -> None:
        """Trim it every now and then: called before a batch of so many tokens."""
        if self._tokens >= _TOKENS:
            self.trim()
        self._tokens += tokens

    def trim(self) -> None:
        """Give back what is free, where the C library can."""
        self._tokens = 0
        if self._malloc_trim is not None:
            self._malloc_trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """What glibc trims its heap with; None where the C library is another."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

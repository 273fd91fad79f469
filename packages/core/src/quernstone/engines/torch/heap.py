"""Return freed memory from the C library to the operating system.

Freeing large tensors between small long-lived objects fragments glibc's heap, which grew by a third
over a long job.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# Tokens between two trims, which take 20 ms each: about five seconds of a small model.
_TOKENS = 160_000


class Heap:
    """Trims the heap of the process regularly."""

    def __init__(self) -> None:
        self._tokens = 0
        self._malloc_trim = _malloc_trim()

    def before(self, tokens: int) -> None:
        """Trim the heap if it is time to. Call this before a batch of `tokens` tokens."""
        if self._tokens >= _TOKENS:
            self.trim()
        self._tokens += tokens

    def trim(self) -> None:
        """Trim the heap, if the C library supports that."""
        self._tokens = 0
        if self._malloc_trim is not None:
            self._malloc_trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`, or None for another C library."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

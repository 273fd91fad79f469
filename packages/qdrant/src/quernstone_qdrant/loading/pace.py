"""How much a batch of a load holds: as much as the model does in a few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 6.0
"""Of the model's time for a batch. Larger ones are hardly faster, and late to show progress; and a
crash loses them."""
_FIRST = 64_000
_LEAST = 32_000
"""About 8,000 tokens: fewer do not fill the forward passes of a batch."""
_MOST = 1_024_000
"""About 256,000 tokens; ten such batches and their vectors fit a small machine's memory."""


class Pace:
    """Measures how fast an embedder is, and says how long the next batch should be. Thread-safe.

    Texts of one length are computed together, and the more there are to choose from the better that
    goes: a fast model wants large batches. With a slow one they would show nothing for minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = self._chars = 0
        self._busy = self._last = 0.0
        self._batch_chars = _FIRST

    @property
    def batch_chars(self) -> int:
        """Characters that a batch should have."""
        return self._batch_chars

    @contextmanager
    def embedding(self, chars: int) -> Iterator[None]:
        """Around a call of the embedder with so many characters; several may run at a time."""
        self._change_calls(1)
        try:
            yield
        finally:
            self._change_calls(-1)
        with self._lock:
            self._chars += chars
            fits = int(_SECONDS * self._chars / max(self._busy, 1e-9))
            self._batch_chars = min(max(fits, _LEAST), _MOST)

    def _change_calls(self, by: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._calls:
                self._busy += now - self._last
            self._last = now
            self._calls += by

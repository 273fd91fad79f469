"""Adapt the batch size of a load to the speed of the embedder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 6.0
"""Target time to embed a batch. Larger batches are hardly faster, delay the progress display, and
lose more work in a crash."""
_FIRST_CHARS = 64_000
_MIN_CHARS = 32_000
"""About 8,000 tokens: smaller batches do not fill the model's forward passes."""
_MAX_CHARS = 1_024_000
"""About 256,000 tokens: ten such batches and their vectors fit in a small machine's memory."""


class AdaptiveBatchSize:
    """The size of the next batch, from the measured throughput of an embedder. Thread-safe.

    Texts of similar length share a forward pass, and a large batch has more of them. So a fast
    model gets large batches. A slow model gets small ones, because a large one would show no
    progress for minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = self._chars = 0
        self._busy = self._last = 0.0
        self._batch_chars = _FIRST_CHARS

    @property
    def chars(self) -> int:
        """Number of characters that the next batch should have."""
        return self._batch_chars

    @contextmanager
    def measure(self, chars: int) -> Iterator[None]:
        """Measure the time of the embedding call inside the block. Calls may overlap.

        Args:
            chars: Total length of the texts in this call.
        """
        self._change_calls(1)
        try:
            yield
        finally:
            self._change_calls(-1)
        with self._lock:
            self._chars += chars
            target = int(_SECONDS * self._chars / max(self._busy, 1e-9))
            self._batch_chars = min(max(target, _MIN_CHARS), _MAX_CHARS)

    def _change_calls(self, change: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._calls:
                self._busy += now - self._last
            self._last = now
            self._calls += change

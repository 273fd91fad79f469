"""Estimate the speed of the model from the sizes and times of its batches."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# Older batches count less: their weight falls to 1/e after this many seconds of computing.
_MEMORY_SECONDS = 15.0
# If the sizes of batches spread by less than this share of their mean, the cost of a token cannot
# be estimated from them.
_SAME_SIZE = 0.01


class Speed:
    """Linear fit of the time of a batch: a fixed part, and a part for each token. Thread-safe.

    Without the fixed part, the rate of small batches would predict hours for a large one.
    """

    def __init__(self, batch_tokens: int, now: Callable[[], float] = time.monotonic) -> None:
        """Begin without a measurement.

        Args:
            batch_tokens: Tokens of a full batch.
            now: The clock.
        """
        self._batch_tokens, self._now = batch_tokens, now
        self._lock = threading.Lock()
        self._running, self._since = 0, 0.0
        # Weighted sums over batches of 1, x, y, x * x, x * y, with x in tokens and y in seconds.
        self._sums = (0.0,) * 5

    @property
    def rate(self) -> float:
        """Tokens per second in full batches; 0 until a batch has ended.

        If all batches had the same size, all of their time counts as the fixed part.
        """
        count, tokens, seconds, squares, products = self._sums
        if not count:
            return 0.0
        mean, mean_seconds = tokens / count, seconds / count
        spread = squares / count - mean * mean
        per_token = 0.0
        if spread > (_SAME_SIZE * mean) ** 2:
            slope = (products / count - mean * mean_seconds) / spread
            per_token = min(max(0.0, slope), mean_seconds / mean)
        fixed = mean_seconds - per_token * mean
        per_token += fixed / max(mean, self._batch_tokens)
        return 1 / per_token if per_token else math.inf

    def begin(self, tokens: int) -> None:
        """Record that a batch begins, and that the previous one has ended."""
        with self._lock:
            now = self._now()
            self._end(now)
            self._running, self._since = tokens, now

    def end(self) -> None:
        """Record that the last batch has ended."""
        with self._lock:
            self._end(self._now())

    def _end(self, now: float) -> None:
        x, y = self._running, now - self._since
        if x and y > 0:
            fading = math.exp(-y / _MEMORY_SECONDS)
            one, tokens, seconds, squares, products = (fading * each for each in self._sums)
            self._sums = (one + 1, tokens + x, seconds + y, squares + x * x, products + x * y)
        self._running = 0

"""Back-pressure: refuse work that would wait too long, by the rate at which work is being done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Older work counts less: by 1/e after this many busy seconds.
_MEMORY_SECONDS = 15.0


class BusyError(Exception):
    """There is too much work already. `.retry_after` is in seconds."""

    def __init__(self, wait: float, limit: float, retry_after: int) -> None:
        super().__init__(wait, limit, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        wait, limit, retry_after = self.args
        return (
            f"the server is busy: this request would wait about {wait:.1f} s, the limit is "
            f"{limit:g} s; retry after {retry_after} s"
        )


class Admission:
    """Counts the tokens that wait or are computed. For one event loop."""

    def __init__(self, max_wait: float, now: Callable[[], float] = time.monotonic) -> None:
        self._max_wait, self._now = max_wait, now
        self._admitted = 0
        self._changed = now()
        # Tokens and busy seconds, both fading, whose quotient is the rate.
        self._tokens = self._seconds = 0.0
        # Refused requests come back. The later one was refused, the later it should.
        self._promised: list[tuple[float, int]] = []

    @property
    def waiting(self) -> int:
        """Tokens that were admitted and are not finished."""
        return self._admitted

    @property
    def rate(self) -> float:
        """Tokens per second while the server is busy; 0 as long as nothing was finished."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def wait(self) -> float:
        """Seconds until the admitted work is done, by the rate; 0 as long as there is none."""
        return self._admitted / self.rate if self.rate else 0.0

    @contextmanager
    def admit(self, tokens: int) -> Iterator[None]:
        """Count tokens as admitted during a block.

        Raises:
            BusyError: They would wait longer than the limit.
        """
        self._advance()
        wait = self.wait
        if wait > self._max_wait:
            raise BusyError(wait, self._max_wait, self._promise(wait, tokens))
        self._admitted += tokens
        finished = False
        try:
            yield
            finished = True
        finally:
            self._advance()
            self._admitted -= tokens
            if finished:
                self._tokens += tokens

    def _advance(self) -> None:
        """Let the time since the last change pass."""
        now = self._now()
        passed, self._changed = now - self._changed, now
        if self._admitted:
            fading = math.exp(-passed / _MEMORY_SECONDS)
            self._tokens *= fading
            self._seconds = self._seconds * fading + passed

    def _promise(self, wait: float, tokens: int) -> int:
        """Return the seconds after which a refused request should find room."""
        now = self._now()
        self._promised = [(due, size) for due, size in self._promised if due > now]
        promised = sum(size for _, size in self._promised)
        # Half of the limit leaves room for new requests.
        seconds = wait - self._max_wait / 2 + promised / self.rate
        retry_after = max(1, math.ceil(seconds))
        self._promised.append((now + retry_after, tokens))
        return retry_after

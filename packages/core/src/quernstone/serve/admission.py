"""Back-pressure: refuse work that would wait too long, by the rate at which work is being done."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from quernstone.serve.speed import Speed

# A request that comes back so much later than its `Retry-After` says is still admitted before new
# ones, but no place waits for it longer than a slot: many requests never come back.
_LATE_SECONDS = 5.0
# The share of the longest wait up to which new requests may delay those that come back.
_NEW = 0.75
# Seconds ahead for which places are kept, and seconds of a slot: both bound the work per request.
_HORIZON_SECONDS = 60
_SLOT_SECONDS = 0.25


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


@dataclass(slots=True)
class _Slot:
    """Refused requests that should come back within a quarter of a second."""

    tokens: int = 0
    keys: list[Hashable] = field(default_factory=list)


class Admission:
    """Counts the tokens that wait or are computed. For one event loop.

    A refused request is promised a place: if it comes back when `Retry-After` has passed, it is
    admitted before new requests. Otherwise they would take its place whenever clients ask for
    more than can be computed.
    """

    def __init__(
        self, max_wait: float, speed: Speed, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_wait, self._speed, self._now = max_wait, speed, now
        self._admitted = 0
        # Promises by the number of their slot, and the times at which those of a key are due.
        self._slots: dict[int, _Slot] = defaultdict(_Slot)
        self._due: dict[Hashable, list[float]] = defaultdict(list)

    @property
    def waiting(self) -> int:
        """Tokens that were admitted and are not finished."""
        return self._admitted

    @property
    def rate(self) -> float:
        """Tokens per second while the server is busy; 0 as long as nothing was computed."""
        return self._speed.rate

    @property
    def wait(self) -> float:
        """Seconds until the admitted work is done, by the rate; 0 as long as there is none."""
        rate = self.rate
        return self._admitted / rate if rate else 0.0

    @contextmanager
    def admit(self, tokens: int, key: Hashable) -> Iterator[None]:
        """Count tokens as admitted during a block.

        Args:
            tokens: Size of the request.
            key: Equal for a request that was refused and comes back.

        Raises:
            BusyError: They would wait longer than the limit, or take the place of a request that
                was refused before.
        """
        self._reserve(tokens, key)
        self._admitted += tokens
        try:
            yield
        finally:
            self._admitted -= tokens
            if not self._admitted:
                self._speed.end()

    def _reserve(self, tokens: int, key: Hashable) -> None:
        """Refuse a request that finds no place."""
        now, wait = self._now(), self.wait
        self._expire(now)
        due = self._take(tokens, key)
        if due is not None and due <= now:
            due = None
        else:
            wait = max(wait, self._foresee(now, tokens)[0] / _NEW)
        if wait <= self._max_wait:
            return
        if due is None:
            # Half of the limit is left, because the rate changes.
            seconds = self._foresee(now)[1] - self._max_wait / 2
            due = now + max(1, math.ceil(seconds))
        if due - now < _HORIZON_SECONDS:
            slot = self._slots[_slot(due)]
            slot.tokens += tokens
            slot.keys.append(key)
            self._due[key].append(due)
        # without the rounding error of a difference that is a whole number
        raise BusyError(wait, self._max_wait, math.ceil(round(due - now, 6)))

    def _take(self, tokens: int, key: Hashable) -> float | None:
        """Remove the first promise of a key, and return the time at which it is due."""
        if key not in self._due:
            return None
        due = self._forget(key)
        slot = self._slots[_slot(due)]
        slot.tokens -= tokens
        slot.keys.remove(key)
        return due

    def _expire(self, now: float) -> None:
        """Forget the promises that were not used."""
        last = _slot(now - _LATE_SECONDS)
        for number in [number for number in self._slots if number < last]:
            for key in self._slots.pop(number).keys:
                self._forget(key)

    def _forget(self, key: Hashable) -> float:
        times = self._due[key]
        due = times.pop(0)
        if not times:
            del self._due[key]
        return due

    def _foresee(self, now: float, more: int = 0) -> tuple[float, float]:
        """Imagine that all requests with a place come back in time.

        Args:
            now: The time.
            more: Tokens that are admitted now.

        Returns:
            The longest wait that one of them finds, and the seconds until all work is done.
        """
        if not (rate := self.rate):
            return 0.0, 0.0
        wait, time, longest = (self._admitted + more) / rate, now, 0.0
        for number in sorted(self._slots):
            if number < _slot(now) - 1 or not self._slots[number].tokens:
                continue
            passed = max(0.0, number * _SLOT_SECONDS - time)
            wait, time = max(0.0, wait - passed), time + passed
            wait += self._slots[number].tokens / rate
            longest = max(longest, wait)
        return longest, time - now + wait


def _slot(time: float) -> int:
    """Return the number of the slot of a time."""
    return math.floor(time / _SLOT_SECONDS)

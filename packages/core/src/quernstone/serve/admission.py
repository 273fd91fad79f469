"""Back-pressure: refuse requests that would wait too long, judging by the measured rate."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from quernstone.serve.speed import Speed

# A refused request that is retried up to this much later than its `Retry-After` says is still
# admitted before new ones. But its reservation only counts in its slot: many are never retried.
_LATE_SECONDS = 5.0
# New requests are admitted only while retried ones would wait at most this fraction of the limit.
_NEW = 0.75
# Reservations reach at most this many seconds ahead, in slots of this many seconds. Both limit
# the work of an admission.
_HORIZON_SECONDS = 60
_SLOT_SECONDS = 0.25


class BusyError(Exception):
    """The queue is too long for a request. `.retry_after` is in seconds."""

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
    """Refused requests that should be retried within the same quarter of a second."""

    tokens: int = 0
    keys: list[Hashable] = field(default_factory=list)


class Admission:
    """Counter of the tokens that wait or are computed. For use in one event loop.

    A place is reserved for each refused request: if it is retried after `Retry-After`, it is
    admitted before new requests. Otherwise, new requests would take its place as long as clients
    ask for more than the server can compute.
    """

    def __init__(
        self, max_wait: float, speed: Speed, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_wait, self._speed, self._now = max_wait, speed, now
        self._admitted = 0
        # Reservations by slot number, and the times at which the requests of a key are due.
        self._slots: dict[int, _Slot] = defaultdict(_Slot)
        self._due: dict[Hashable, list[float]] = defaultdict(list)

    @property
    def waiting(self) -> int:
        """Number of tokens that were admitted and are not finished."""
        return self._admitted

    @property
    def rate(self) -> float:
        """Tokens per second while the server is busy; 0 before the first batch."""
        return self._speed.rate

    @property
    def wait(self) -> float:
        """Estimated seconds until the admitted work is done; 0 before the first batch."""
        rate = self.rate
        return self._admitted / rate if rate else 0.0

    @contextmanager
    def admit(self, tokens: int, key: Hashable) -> Iterator[None]:
        """Count tokens as admitted during a block.

        Args:
            tokens: Size of the request.
            key: Identifies a request that was refused and is retried.

        Raises:
            BusyError: The request would wait longer than the limit, or take the place of one that
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
        """Raise `BusyError` if a request has to wait too long, and reserve a place for it."""
        now, wait = self._now(), self.wait
        self._expire(now)
        due = self._take(tokens, key)
        if due is not None and due <= now:
            due = None
        else:
            wait = max(wait, self._simulate(now, tokens)[0] / _NEW)
        if wait <= self._max_wait:
            return
        if due is None:
            # Plan for half of the limit, because the rate may change meanwhile.
            seconds = self._simulate(now)[1] - self._max_wait / 2
            due = now + max(1, math.ceil(seconds))
        if due - now < _HORIZON_SECONDS:
            slot = self._slots[_slot(due)]
            slot.tokens += tokens
            slot.keys.append(key)
            self._due[key].append(due)
        # without the rounding error of a difference that is a whole number
        raise BusyError(wait, self._max_wait, math.ceil(round(due - now, 6)))

    def _take(self, tokens: int, key: Hashable) -> float | None:
        """Remove the first reservation of a key, and return the time at which it is due."""
        if key not in self._due:
            return None
        due = self._forget(key)
        slot = self._slots[_slot(due)]
        slot.tokens -= tokens
        slot.keys.remove(key)
        return due

    def _expire(self, now: float) -> None:
        """Remove the reservations that were not used."""
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

    def _simulate(self, now: float, more: int = 0) -> tuple[float, float]:
        """Simulate the queue, assuming that all requests with a reservation are retried in time.

        Args:
            now: The current time.
            more: Number of tokens to admit now.

        Returns:
            The longest wait of one of these requests, and the seconds until all work is done.
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
    """Return the number of the slot that a time is in."""
    return math.floor(time / _SLOT_SECONDS)

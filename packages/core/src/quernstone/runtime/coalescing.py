"""Wait for other callers of an event loop that are ready at the same time, to share a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from quernstone.runtime.windows import text_size

# Calls with more inputs or characters fill batches of their own.
_SMALL_INPUTS = 16
_SMALL_CHARS = 20_000
_QUICK_CHARS = 2000
_MAX_SECONDS = 0.02
_QUIET_ITERATIONS = 2
"""The wait ends after so many iterations of the loop without a new caller.

A web server needs one iteration to get from a request to its handler.
"""


class _Gathering:
    """The waiting callers of one event loop."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._deadline = 0.0

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that completes when no more callers arrive."""
        if not self._waiting:
            self._deadline = loop.time() + _MAX_SECONDS
            loop.call_soon(self._look, loop, 1, 0)
        joined: asyncio.Future[None] = loop.create_future()
        self._waiting.append(joined)
        return joined

    def _look(self, loop: asyncio.AbstractEventLoop, before: int, quiet: int) -> None:
        quiet = quiet + 1 if len(self._waiting) == before else 0
        if quiet < _QUIET_ITERATIONS and loop.time() < self._deadline:
            loop.call_soon(self._look, loop, len(self._waiting), quiet)
            return
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():  # its caller was cancelled
                future.set_result(None)


_gatherings: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = WeakKeyDictionary()


async def others_are_ready() -> None:
    """Wait until no more callers arrive on this event loop, for at most 20 ms.

    A busy loop holds the GIL, which an engine needs between its kernels. So computing the first
    query of a burst alone, while the others arrive, takes longer than computing all of them
    together. Without other callers, the wait is two iterations of the loop.
    """
    loop = asyncio.get_running_loop()
    await _gatherings.setdefault(loop, _Gathering()).join(loop)


def is_small(inputs: Sequence[object]) -> bool:
    """Return whether to compute inputs together with those of other callers, in one window."""
    return 0 < len(inputs) <= _SMALL_INPUTS and _chars(inputs) <= _SMALL_CHARS


def is_quick(inputs: Sequence[object]) -> bool:
    """Return whether inputs can be encoded on an event loop, which takes about a millisecond."""
    return len(inputs) <= _SMALL_INPUTS and _chars(inputs) <= _QUICK_CHARS


def _chars(inputs: Sequence[object]) -> int:
    return sum(map(text_size, inputs))

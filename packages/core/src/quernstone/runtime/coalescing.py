"""Callers of one event loop that are ready at about the same time, so that they share a batch."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_LONGEST_SECONDS = 0.02
_QUIET_TURNS = 2
"""Turns of the loop without a new caller: a web server needs one from a request to its handler."""


class _Gathering:
    """The callers of one loop that wait."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._deadline = 0.0

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Done when no more callers arrive."""
        if not self._waiting:
            self._deadline = loop.time() + _LONGEST_SECONDS
            loop.call_soon(self._look, loop, 1, 0)
        joined: asyncio.Future[None] = loop.create_future()
        self._waiting.append(joined)
        return joined

    def _look(self, loop: asyncio.AbstractEventLoop, before: int, quiet: int) -> None:
        quiet = quiet + 1 if len(self._waiting) == before else 0
        if quiet < _QUIET_TURNS and loop.time() < self._deadline:
            loop.call_soon(self._look, loop, len(self._waiting), quiet)
            return
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():  # its caller was cancelled
                future.set_result(None)


_gatherings: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = WeakKeyDictionary()


async def others_are_ready() -> None:
    """Wait while further callers arrive on this event loop, but not for long.

    A loop that is busy with them has Python's lock, for which an engine waits between its kernels:
    the first query of a burst, computed meanwhile and alone, took longer than all together. If
    nobody else comes, the wait is two turns of the loop.
    """
    loop = asyncio.get_running_loop()
    await _gatherings.setdefault(loop, _Gathering()).join(loop)

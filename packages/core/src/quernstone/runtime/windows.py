"""Windows of a job: inputs that are encoded and submitted together.

A window is large enough to sort by length and fill batches, and small enough that memory does not
grow with the job.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

_WINDOW_INPUTS = 2048
_WINDOW_CHARS = 4_000_000
_FIRST_PART = 256

T = TypeVar("T")


def windows(inputs: Iterable[T]) -> Iterator[tuple[int, list[T]]]:
    """Yield windows, each with the index of its first input."""
    window: _Window[T] = _Window()
    for value in inputs:
        if window.add(value):
            yield window.take()
    if window.inputs:
        yield window.take()


async def awindows(inputs: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[tuple[int, list[T]]]:
    """Like `windows`; also accepts asynchronous iterables."""
    if not isinstance(inputs, AsyncIterable):
        for taken in windows(inputs):
            yield taken
        return
    window: _Window[T] = _Window()
    async for value in inputs:
        if window.add(value):
            yield window.take()
    if window.inputs:
        yield window.take()


def growing_parts(window: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """Split a window into parts, each twice as large as the one before, with their positions.

    While a device computes one part, the next is encoded.
    """
    start, size = 0, _FIRST_PART
    while start < len(window):
        yield start, window[start : start + size]
        start, size = start + size, 2 * size


def text_size(value: object) -> int:
    """Count the characters of a text or a pair; wrong types count 0 and are rejected later."""
    size = 0
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, str):
            size += len(part)
    return size


class _Window(Generic[T]):
    """Collects inputs until there are enough of them, or enough text."""

    def __init__(self) -> None:
        self.inputs: list[T] = []
        self._offset = 0
        self._chars = 0

    def add(self, value: T) -> bool:
        """Add an input; True when the window is full."""
        self.inputs.append(value)
        self._chars += text_size(value)
        return len(self.inputs) >= _WINDOW_INPUTS or self._chars >= _WINDOW_CHARS

    def take(self) -> tuple[int, list[T]]:
        """Return the index of the first input and the inputs, and start the next window."""
        taken = (self._offset, self.inputs)
        self._offset, self.inputs, self._chars = self._offset + len(self.inputs), [], 0
        return taken

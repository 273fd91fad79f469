"""Split long texts at natural boundaries into chunks short enough to embed well."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.records import Record, TextFormat

# The splitter's time is quadratic in the length of a paragraph: 2 MB without a space took 18 s.
# Windows of 64 Ki characters, far longer than any chunk, make it linear.
_WINDOW = 65_536
_BREAKS = ("\n\n", "\n", " ")
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S.*)$|^ {0,3}(```|~~~)", re.MULTILINE)
_Span: TypeAlias = "tuple[int, str]"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a record's text."""

    record: Record
    number: int
    """Index of the chunk in its record, from 0."""
    text: str
    start: int
    """Offset of the first character in the record's text."""
    headings: tuple[str, ...] = ()
    """Markdown headings above the chunk's first line, outermost first."""
    page: int | None = None
    """Number of the page on which the chunk begins, from 1."""
    last: bool = True
    """True for the last chunk of the record."""


class Chunker:
    """A splitter of records into chunks of limited size, at paragraphs and sentences if possible.

    Args:
        size: Maximum number of characters per chunk; None does not split.
        overlap: Maximum number of characters that a chunk repeats from the previous one; None means
            a tenth of `size`.

    Raises:
        ConfigError: `size` is below 1, or `overlap` is not in [0, `size`).
    """

    def __init__(self, size: int | None = 1200, overlap: int | None = None) -> None:
        self.size = size
        if size is None:
            return
        if size < 1:
            raise ConfigError(f"`chunk_size` is {size}; it must be at least 1, or None")
        if overlap is None:
            overlap = size // 10
        if not 0 <= overlap < size:
            raise ConfigError(
                f"`chunk_overlap` is {overlap}; it must be at least 0 and below `chunk_size` "
                f"({size})"
            )
        self._splitters: dict[TextFormat, TextSplitter | MarkdownSplitter] = {
            "text": TextSplitter(size, overlap=overlap),
            "markdown": MarkdownSplitter(size, overlap=overlap),
        }

    def split(self, record: Record) -> Iterator[Chunk]:
        """Split one record. A text that is all white space has no chunks."""
        headings_at = _Outline(record.text).at if record.format == "markdown" else _no_headings
        previous: _Span | None = None
        number = 0
        for span in self._spans(record):
            if previous is not None:
                start, text = previous
                page = _page(record, start)
                yield Chunk(record, number, text, start, headings_at(start), page, last=False)
                number += 1
            previous = span
        if previous is not None:
            start, text = previous
            yield Chunk(record, number, text, start, headings_at(start), _page(record, start))

    def _spans(self, record: Record) -> Iterator[_Span]:
        if self.size is None or len(record.text) <= self.size:
            text = record.text.strip()
            if text:
                yield record.text.index(text), text
            return
        splitter = self._splitters[record.format]
        for offset, window in _windows(record.text):
            for start, text in splitter.chunk_indices(window):
                if text.strip():
                    yield offset + start, text


def _windows(text: str) -> Iterator[_Span]:
    """Split a very long text at blank lines, else at line ends, else at spaces, else anywhere."""
    start = 0
    while len(text) - start > _WINDOW:
        end = start + _WINDOW
        for mark in _BREAKS:
            found = text.rfind(mark, start + _WINDOW // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (offset, level, title) of each ATX heading outside fenced code."""
    fence: str | None = None
    for match in _HEADING.finditer(text):
        if match[3]:
            fence = match[3] if fence is None else None if fence == match[3] else fence
        elif fence is None:
            yield match.start(), len(match[1]), _title(match[2])


def _title(text: str) -> str:
    """Strip the optional closing `#`s of a heading. They follow a space, so `C#` stays."""
    text = text.rstrip()
    bare = text.rstrip("#")
    return bare.rstrip() if bare[-1:].isspace() else text


def _no_headings(_: int) -> tuple[str, ...]:
    """Return the headings of a plain text: none."""
    return ()


def _page(record: Record, start: int) -> int | None:
    """Return the number of the last page that begins at or before an offset."""
    return bisect_right(record.pages, start) if record.pages else None


class _Outline:
    """The headings of a Markdown text, read from start to end."""

    def __init__(self, text: str) -> None:
        self._remaining = _headings(text)
        self._next = next(self._remaining, None)
        self._path: list[tuple[int, str]] = []

    def at(self, offset: int) -> tuple[str, ...]:
        """Return the headings above `offset`. Offsets must not decrease from call to call."""
        while self._next is not None and self._next[0] <= offset:
            _, level, title = self._next
            while self._path and self._path[-1][0] >= level:
                self._path.pop()
            self._path.append((level, title))
            self._next = next(self._remaining, None)
        return tuple(title for _, title in self._path)

"""Read questions from a file, one per line, and answer them in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quernstone.cli.rows import RowInput, TextRow
from quernstone.errors import ConfigError, InputError
from quernstone.tables.files import count_lines, is_pipe, is_standard_input
from quernstone_qdrant.searching.options import OneSearchOptions, SearchOptions

if TYPE_CHECKING:
    from quernstone_qdrant.searcher import QdrantSearcher
    from quernstone_qdrant.searching.hits import SearchHit

_BATCH = 64
"""Number of questions that are answered together, in shared batches and one request."""


class QuestionFile:
    """The questions of a file, one per line.

    The first ones are read at once, so that an empty file is refused before a model is loaded.

    Args:
        path: Plain or compressed (`.gz`, `.zst`); `-` is standard input.

    Raises:
        ConfigError: The file does not exist, or has no question.
        SourceError: A line is not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        if not is_standard_input(path) and (path.is_dir() or not path.exists()):
            raise ConfigError(f"--queries {path}: no such file")
        self._path, self._rows = path, RowInput(path, "lines")
        self._empty = 0
        questions = self._read()
        first = list(islice(questions, _BATCH))
        if not first:
            raise ConfigError(f"{self._rows.name} has no query: write one per line")
        self._questions = chain(first, questions)

    def count(self) -> int | None:
        """Return the number of questions, or None if the file can be read only once."""
        return None if is_pipe(self._path) else count_lines(self._path)

    def texts(self) -> list[str]:
        """Return all questions."""
        return [row.text for row in self.rows()]

    def rows(self) -> Iterator[TextRow]:
        """Yield the questions; then print how many lines were empty.

        Raises:
            SourceError: A line is not UTF-8, or a compressed file is damaged.
        """
        yield from self._questions
        if self._empty:
            typer.echo(f"quern: skipped {self._empty:,} empty lines of {self._rows.name}", err=True)

    def answers(
        self, searcher: QdrantSearcher, limit: int, options: Mapping[str, Any]
    ) -> Iterator[tuple[str, list[SearchHit]]]:
        """Yield the questions with their hits, in the order of the file.

        Args:
            searcher: Its `search_many` answers them, or its `search` if hits are grouped.
            limit: Maximum number of hits of each question.
            options: Other arguments of `QdrantSearcher.search`.

        Raises:
            SourceError: A line cannot be read, or the model refuses its text.
        """
        rows = self.rows()
        single = OneSearchOptions.__annotations__.keys() - SearchOptions.__annotations__.keys()
        given = {name: value for name, value in options.items() if value is not None}
        while window := list(islice(rows, _BATCH)):
            if not single & given.keys():
                try:
                    found = searcher.search_many([row.text for row in window], limit, **given)
                except InputError:
                    pass  # searched one by one, the faulty question is known by its line
                else:
                    yield from zip((row.text for row in window), found, strict=True)
                    continue
            for row in window:
                try:
                    hits = searcher.search(row.text, limit, **given)
                except InputError as error:
                    raise row.error(error) from error
                yield row.text, hits

    def _read(self) -> Iterator[TextRow]:
        for row in self._rows.texts():
            text = row.text.strip()
            if text:
                yield replace(row, text=text)
            else:
                self._empty += 1

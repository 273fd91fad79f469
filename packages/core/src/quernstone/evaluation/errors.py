"""Errors of evaluation files."""

from __future__ import annotations

from pathlib import Path

from quernstone.errors import QuernstoneError


class ResultsError(QuernstoneError, ValueError):
    """A file or folder of results or predictions cannot be used; `.path` is its path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"`{self.path}`: {self.reason}"

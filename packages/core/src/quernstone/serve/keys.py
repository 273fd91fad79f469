"""API keys: read from a file, compared in constant time, never shown."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from quernstone.engines.remote.options import read_key
from quernstone.errors import ConfigError


class Keys:
    """The accepted keys, kept only as digests, so that no key can be printed."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: str | None) -> bool:
        """Return True if a header `Authorization: Bearer KEY` has an accepted key.

        All keys are compared, so the time does not depend on the header.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def read_keys(path: Path) -> tuple[str, ...]:
    """Read one key per line. Empty lines, and lines that begin with `#`, are skipped.

    Raises:
        ConfigError: No key was given, or one contains characters that a header cannot.
        OSError: The file cannot be read.
    """
    lines = enumerate(path.read_text().splitlines(), 1)
    keys = tuple(
        read_key(line, f"{path}, line {number}").get_secret_value()
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    )
    if not keys:
        raise ConfigError(f"{path} has no key; write one key per line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()

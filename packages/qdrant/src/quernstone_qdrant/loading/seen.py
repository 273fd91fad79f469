"""A set of hashes that may be larger than the memory: which points a load has come across.

The points that a finished load did not come across are those to prune. Marking every point with
the number of the load instead would rewrite the whole collection on every run; this costs 16 bytes
a point on disk, and one pass over the ids that are stored.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

_SIZE = 16
_KEY = np.dtype("S16")
_BUCKETS = 256
_MEMORY = 32 << 20
"""Bytes that are kept before they go to files: two million hashes."""


class SeenHashes:
    """Collects hashes of 16 bytes, by their first byte, and tells then which are in it.

    Use it as a context manager: the files go when the block ends.
    """

    def __init__(self) -> None:
        self._buffers = [bytearray() for _ in range(_BUCKETS)]
        self._buffered = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sorted: dict[int, npt.NDArray[np.bytes_]] = {}

    def add(self, digest: bytes) -> None:
        """Add one hash. Not after the first question."""
        self._buffers[digest[0]] += digest
        self._buffered += _SIZE
        if self._buffered >= _MEMORY:
            self._spill()

    def __contains__(self, digest: bytes) -> bool:
        known = self._bucket(digest[0])
        wanted = np.frombuffer(digest, dtype=_KEY)
        place = int(np.searchsorted(known, wanted)[0])
        return place < len(known) and bool(known[place] == wanted[0])

    def _bucket(self, number: int) -> npt.NDArray[np.bytes_]:
        known = self._sorted.get(number)
        if known is None:
            path = self._path(number)
            spilled = path.read_bytes() if path is not None and path.exists() else b""
            known = np.sort(np.frombuffer(spilled + bytes(self._buffers[number]), dtype=_KEY))
            if path is not None and spilled:  # the system decides how much of it is in memory
                known.tofile(path)
                known = np.memmap(path, dtype=_KEY, mode="r")
            self._sorted[number] = known
        return known

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="quernstone-")
        for number, buffer in enumerate(self._buffers):
            path = self._path(number)
            if buffer and path is not None:
                with path.open("ab") as file:
                    file.write(buffer)
                buffer.clear()
        self._buffered = 0

    def _path(self, number: int) -> Path | None:
        return Path(self._folder.name) / f"{number:02x}" if self._folder else None

    def __enter__(self) -> SeenHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sorted.clear()
        if self._folder is not None:
            self._folder.cleanup()

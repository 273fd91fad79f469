"""A set of hashes that spills to disk: the points that a load has seen.

After a load, points that it has not seen are pruned. Storing the number of the load in every point
would rewrite the whole collection in every run. This set needs only 16 bytes per point on disk and
one pass over the ids in the collection.
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
"""Bytes that are buffered in memory before they are written to disk: two million hashes."""


class SeenHashes:
    """A set of 16-byte hashes, divided by their first byte into 256 buckets.

    Use it as a context manager: it deletes its files when the block ends.
    """

    def __init__(self) -> None:
        self._buffers = [bytearray() for _ in range(_BUCKETS)]
        self._buffered = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sorted: dict[int, npt.NDArray[np.bytes_]] = {}

    def add(self, digest: bytes) -> None:
        """Add a hash. All hashes must be added before the first lookup."""
        self._buffers[digest[0]] += digest
        self._buffered += _SIZE
        if self._buffered >= _MEMORY:
            self._spill()

    def __contains__(self, digest: bytes) -> bool:
        bucket = self._bucket(digest[0])
        key = np.frombuffer(digest, dtype=_KEY)
        position = int(np.searchsorted(bucket, key)[0])
        return position < len(bucket) and bool(bucket[position] == key[0])

    def __le__(self, other: SeenHashes) -> bool:
        """Return True if `other` contains every hash of this set."""
        return all(
            np.isin(bucket, other._bucket(number), kind="sort").all()
            for number in range(_BUCKETS)
            if len(bucket := self._bucket(number))
        )

    def conflicts(self, most: int) -> tuple[int, list[bytes]]:
        """Find hashes that share their first 8 bytes with another hash, but not the last 8.

        Returns:
            The number of such hashes, and the first 8 bytes of at most `most` of them.
        """
        count, found = 0, list[bytes]()
        for number in range(_BUCKETS):
            bucket = np.unique(self._bucket(number))
            firsts = bucket.view(np.uint64)[::2]
            repeated = firsts[1:][firsts[1:] == firsts[:-1]]
            count += len(repeated)
            found += [one.tobytes() for one in repeated[: most - len(found)]]
        return count, found

    def _bucket(self, number: int) -> npt.NDArray[np.bytes_]:
        bucket = self._sorted.get(number)
        if bucket is None:
            path = self._path(number)
            spilled = path.read_bytes() if path is not None and path.exists() else b""
            bucket = np.sort(np.frombuffer(spilled + bytes(self._buffers[number]), dtype=_KEY))
            if path is not None and spilled:  # memory-mapped, so the system can page it out
                bucket.tofile(path)
                bucket = np.memmap(path, dtype=_KEY, mode="r")
            self._sorted[number] = bucket
        return bucket

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

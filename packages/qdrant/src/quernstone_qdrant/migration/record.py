"""A record of the old collection before the switch, to find what is written to it later.

After the switch, programs may write to both collections. Only what changed in the old one since
the record may be applied to the new one, and only to points that nothing else changed there. The
record holds 49 bytes per point in the order of the ids. A journal next to it holds what was applied
since then. It is a write-ahead log: each entry is written before the new collection, so that a kill
between both is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import orjson

from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.migration.joining import ID_SIZE, id_bytes
from quernstone_qdrant.targets import StoredPoint
from quernstone_qdrant.targets.base import Payload

_DIGEST = 16
_ROW = ID_SIZE + 2 * _DIGEST
ABSENT = b"\0" * _DIGEST
"""Stands for the digest of a point that does not exist."""


class Row(NamedTuple):
    """A point of the record."""

    id: bytes
    """Sorts as Qdrant sorts ids."""
    old: bytes
    """Digest of the old collection's payload."""
    new: bytes
    """Digest of the payload that the new collection was given."""


def old_digest(point: StoredPoint) -> bytes:
    """Return the digest of a payload as it is stored."""
    return _digest(point.payload)


def new_digest(payload: Payload | None) -> bytes:
    """Return the digest of a payload, equal before and after it is stored.

    Qdrant may round floats, so they are left out. The content hash of a loader covers them.
    """
    if payload is None:
        return ABSENT
    own = payload.get(OWN_KEY)
    if isinstance(own, dict) and isinstance(own.get("hash"), str):
        return _digest({name: value for name, value in own.items() if name != "metadata"})
    return _digest(_without_floats(payload))


def _digest(value: Any) -> bytes:
    content = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _without_floats(value: Any) -> Any:
    if isinstance(value, float):
        return None
    if isinstance(value, Mapping):
        return {name: _without_floats(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_floats(member) for member in value]
    return value


class RecordWriter:
    """A writer of a record, which replaces the previous one only when it is complete.

    Use it as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._new = path, path.with_name(f"{path.name}.new")
        self._file: BinaryIO = self._new.open("wb")

    def add(self, point: StoredPoint, payload: Payload | None) -> None:
        """Add a point of the old collection, and its payload in the new one (None: left out)."""
        self._file.write(id_bytes(point.id) + old_digest(point) + new_digest(payload))

    def complete(self) -> None:
        """Replace the previous record, and delete its journal."""
        self._file.close()
        Journal.path(self._path).unlink(missing_ok=True)
        self._new.replace(self._path)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._new.unlink(missing_ok=True)


def read_record(path: Path) -> Iterator[Row]:
    """Yield the points of a record in the order of their ids."""
    with path.open("rb") as file:
        while row := file.read(_ROW):
            yield Row(row[:ID_SIZE], row[ID_SIZE : ID_SIZE + _DIGEST], row[ID_SIZE + _DIGEST :])


class Journal:
    """A write-ahead log of what was applied to the new collection since the record, by id.

    Args:
        record: Path of the record.
    """

    def __init__(self, record: Path) -> None:
        self._path = self.path(record)
        self._applied: dict[bytes, list[bytes]] = {}
        content = self._path.read_bytes() if self._path.exists() else b""
        size = ID_SIZE + _DIGEST
        whole = len(content) - len(content) % size  # a kill may have cut the last entry
        for start in range(0, whole, size):
            self._keep(content[start : start + ID_SIZE], content[start + ID_SIZE : start + size])
        self._file = self._path.open("r+b" if content else "wb")
        self._file.truncate(whole)
        self._file.seek(whole)

    @staticmethod
    def path(record: Path) -> Path:
        """Return the path of the journal of a record."""
        return record.with_name(f"{record.name}.journal")

    def _keep(self, point: bytes, digest: bytes) -> None:
        self._applied[point] = [*self._applied.get(point, [])[-1:], digest]

    def add(self, points: Mapping[bytes, bytes]) -> None:
        """Record what is about to be written: digests, or `ABSENT` for deletions."""
        for point, digest in points.items():
            self._keep(point, digest)
            self._file.write(point + digest)
        self._file.flush()

    def expected(self, point: bytes, recorded: bytes) -> list[bytes]:
        """Return the digests that a point of the new collection has if nothing else wrote it.

        Args:
            point: The id.
            recorded: Its digest in the record, or `ABSENT`.
        """
        return [recorded, *self._applied.get(point, [])][-2:]

    def knows(self, point: bytes) -> bool:
        """Return True if something was applied to a point."""
        return point in self._applied

    def last(self, point: bytes) -> bytes | None:
        """Return the digest of what was applied last, None if nothing was."""
        return self._applied[point][-1] if point in self._applied else None

    def before(self, point: bytes, recorded: bytes) -> bytes:
        """Return the digest that a point had before the last entry was applied."""
        return [recorded, *self._applied.get(point, [])][-2:][0]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

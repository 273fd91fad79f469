"""Check that every document has all its chunks, from the first to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from uuid import UUID

from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.targets import StoredPoint


class ChunkSequences:
    """A check that the chunks of each document are numbered without gaps.

    A point's id is derived from its document and chunk number, so the ids of the chunks before and
    after it can be computed. The ids that were read and those that must exist take 48 bytes per
    point, on disk beyond 96 MB. Older versions did not store which chunk is a document's last. Such
    points are counted, because a document that lost its last chunks looks like a shorter one.

    Use it as a context manager: it deletes its files when the block ends.

    Args:
        namespace: Namespace of the collection's point ids.
    """

    def __init__(self, namespace: UUID) -> None:
        self._namespace = namespace
        self._found, self._needed, self._following = SeenHashes(), SeenHashes(), SeenHashes()
        self._gaps = SeenHashes()
        """Ids of the first missing chunk of each gap."""
        self.endless = 0
        """Points that do not store whether they are the last of their document."""

    def add(self, key: str, number: int, last: bool | None) -> None:
        """Add chunk `number` of document `key`. All must be added before `gaps` is called.

        Args:
            key: Key of the document.
            number: Number of the chunk.
            last: True for the document's last chunk; None if it is not known.
        """
        self._found.add(self._digest(key, number))
        if number > 0:
            self._needed.add(self._digest(key, number - 1))
        if last is None:
            self.endless += 1
        elif not last:
            self._following.add(self._digest(key, number + 1))

    def gaps(self, read: Callable[[], Iterator[StoredPoint]]) -> Iterator[tuple[str, range]]:
        """Yield (key, chunk numbers) for each run of chunks that a document lacks.

        Args:
            read: Reads the field `OWN_KEY` of all points; called only if there is a gap.
        """
        if self._needed <= self._found:
            return
        for key, number, _ in self._identified(read()):
            first = number
            while first > 0 and self._digest(key, first - 1) not in self._found:
                first -= 1
            if first < number:
                self._gaps.add(self._digest(key, first))
                yield key, range(first, number)

    def cut(self, read: Callable[[], Iterator[StoredPoint]]) -> Iterator[tuple[str, int]]:
        """Yield (key, number of its last stored chunk) for each document that lost its last chunks.

        Args:
            read: As for `gaps`, which must be exhausted first.
        """
        if self._following <= self._found:
            return
        for key, number, last in self._identified(read()):
            after = self._digest(key, number + 1)
            if last is False and after not in self._found and after not in self._gaps:
                yield key, number

    @property
    def complete(self) -> bool:
        """True if no chunk is missing. Add all chunks first."""
        return self._needed <= self._found and self._following <= self._found

    def _identified(self, points: Iterator[StoredPoint]) -> Iterator[tuple[str, int, object]]:
        """Yield (key, number, last) of each point whose id is that of its document and chunk."""
        for point in points:
            own = point.payload.get(OWN_KEY)
            key, number = (own.get("key"), own.get("chunk")) if isinstance(own, dict) else (0, 0)
            if not isinstance(own, dict) or not isinstance(key, str) or not isinstance(number, int):
                continue
            if point.id == point_id(self._namespace, key, number):
                yield key, number, own.get("last")

    def _digest(self, key: str, number: int) -> bytes:
        return UUID(point_id(self._namespace, key, number)).bytes

    def __enter__(self) -> ChunkSequences:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hashes in (self._found, self._needed, self._following, self._gaps):
            hashes.__exit__(kind, error, traceback)

"""Check that the chunks of every document are numbered from 0 without a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from uuid import UUID

from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.targets import StoredPoint


class ChunkSequences:
    """The chunks of all documents, of which each must follow another one.

    A point's id is derived from its document and number, so it gives the id of the chunk before
    it. The ids that were read and those that must exist take 32 bytes per point, on disk beyond
    64 MB. A document that lost its last chunks looks like a shorter one.

    Use it as a context manager: it deletes its files when the block ends.

    Args:
        namespace: Namespace of the collection's point ids.
    """

    def __init__(self, namespace: UUID) -> None:
        self._namespace = namespace
        self._found, self._needed = SeenHashes(), SeenHashes()

    def add(self, key: str, number: int) -> None:
        """Add chunk `number` of document `key`. All must be added before `gaps` is called."""
        self._found.add(self._digest(key, number))
        if number > 0:
            self._needed.add(self._digest(key, number - 1))

    def gaps(self, read: Callable[[], Iterator[StoredPoint]]) -> Iterator[tuple[str, range]]:
        """Yield each document and the numbers of a run of chunks that it lacks.

        Args:
            read: Reads the field `OWN_KEY` of all points; called if there is a gap.
        """
        if self._needed <= self._found:
            return
        for point in read():
            own = point.payload.get(OWN_KEY)
            key, number = (own.get("key"), own.get("chunk")) if isinstance(own, dict) else (0, 0)
            if not isinstance(key, str) or not isinstance(number, int):
                continue
            if point.id != point_id(self._namespace, key, number):
                continue
            first = number
            while first > 0 and self._digest(key, first - 1) not in self._found:
                first -= 1
            if first < number:
                yield key, range(first, number)

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
        self._found.__exit__(kind, error, traceback)
        self._needed.__exit__(kind, error, traceback)

"""Detect two different records with the same key in one load."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import orjson

from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.seen import SeenHashes

_REMEMBERED = 65_536
_SHOWN = 3
_NAMED = 100_000
"""Maximum number of possible duplicates whose keys are kept in memory, for the report."""
_FILTER_BITS = 1 << 27


@dataclass(frozen=True, slots=True)
class LateDuplicates:
    """Records that replaced a much earlier record with the same key but different content."""

    count: int
    keys: list[str]
    """Keys of the first of them."""

    def __str__(self) -> str:
        """List the keys."""
        if not self.keys:
            return f"{self.count:,} keys"
        shown = ", ".join(map(repr, self.keys[:_SHOWN]))
        more = self.count - min(len(self.keys), _SHOWN)
        return f"{shown} and {more:,} more" if more else shown


class KnownKeys:
    """The keys of a load.

    The last 65,536 keys are in memory, so a duplicate of one of them is an error at its record.
    Duplicates of earlier keys are found at the end of the load, from 16 bytes per record, which
    spill to disk.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()
        self._all = SeenHashes()
        self._filter = _BloomFilter()
        self._suspects: dict[bytes, str] = {}
        """Keys that may be duplicates, by their digests."""
        self._evicted = False
        """True once a key was dropped from `_digests`."""

    def late_duplicates(self) -> LateDuplicates:
        """Return the duplicates of keys that were no longer in memory.

        Call this once, after the last record.
        """
        with self._all as hashes:
            if not self._evicted:
                return LateDuplicates(0, [])
            count, digests = hashes.conflicts(_NAMED)
        return LateDuplicates(
            count, [self._suspects[one] for one in digests if one in self._suspects]
        )

    def is_duplicate(self, record: Record) -> bool:
        """Return True if an identical record was seen before.

        Raises:
            RecordError: A different record with the same key was seen before. The two would
                overwrite each other in every run.
        """
        # All nodes of a document have the document's key.
        node_id = (record.node or {}).get("id_")
        identity = record.key if node_id is None else f"{record.key}\0{node_id}"
        content = orjson.dumps([record.text, record.metadata], option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        known = self._digests.get(identity)
        if known is not None and known != digest:
            raise RecordError(
                record.key,
                "another record of this load has the same key but different content: give each "
                "record a unique id, or load the files separately, each with a --namespace of its "
                "own",
            )
        if known is None:
            key_digest = hashlib.blake2b(identity.encode(), digest_size=16).digest()
            self._all.add(key_digest[:8] + digest[:8])
            if self._filter.add(key_digest) and len(self._suspects) < _NAMED:
                self._suspects[key_digest[:8]] = record.key
        self._digests[identity] = digest
        if len(self._digests) > _REMEMBERED:
            self._evicted = True
            self._digests.popitem(last=False)
        return known is not None


class _BloomFilter:
    """A Bloom filter of 16 MiB: `add` may wrongly return True, but never False."""

    def __init__(self) -> None:
        self._bits = bytearray(_FILTER_BITS // 8)

    def add(self, digest: bytes) -> bool:
        """Add 16 bytes; return True if they may have been added before."""
        is_known = True
        for start in range(0, 16, 4):
            bit = int.from_bytes(digest[start : start + 4], "little") % _FILTER_BITS
            place, mask = bit >> 3, 1 << (bit & 7)
            is_known = is_known and bool(self._bits[place] & mask)
            self._bits[place] |= mask
        return is_known

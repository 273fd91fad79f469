"""Finds two records of one load that claim the same key."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import orjson

from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import RecordError

_REMEMBERED = 65_536


class RecentKeys:
    """Remembers the last 65,536 keys: enough for most loads, and a few MB for the longest."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()

    def is_repeat(self, record: Record) -> bool:
        """Whether this very record was here already.

        Raises:
            RecordError: Another record has the same key: they would overwrite each other, on
                every run again.
        """
        content = orjson.dumps([record.text, record.metadata], option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        known = self._digests.get(record.key)
        if known is not None and known != digest:
            raise RecordError(
                record.key, "another record of this load has the same key and other content"
            )
        self._digests[record.key] = digest
        if len(self._digests) > _REMEMBERED:
            self._digests.popitem(last=False)
        return known is not None

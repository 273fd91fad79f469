"""Detect two different records with the same key in one load."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import orjson

from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import RecordError

_REMEMBERED = 65_536


class RecentKeys:
    """The last 65,536 keys of a load: more than most loads have, in a few MB of memory."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()

    def is_repeat(self, record: Record) -> bool:
        """Return True if an identical record was seen before.

        Raises:
            RecordError: A different record with the same key was seen before. The two would
                overwrite each other in every run.
        """
        # Several nodes have the key of their document.
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
        self._digests[identity] = digest
        if len(self._digests) > _REMEMBERED:
            self._digests.popitem(last=False)
        return known is not None

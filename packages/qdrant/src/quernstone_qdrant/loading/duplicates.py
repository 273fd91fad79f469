"""Detect two different records with the same key in one load."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import orjson

from quernstone_qdrant.documents.records import Record
from quernstone_qdrant.errors import RecordError
from quernstone_qdrant.loading.seen import SeenHashes

_REMEMBERED = 65_536


class KnownKeys:
    """The keys of a load.

    The last 65,536 of them are in memory, so that a repeated key is an error of its record. The
    others are found at the end of the load, by 16 bytes per record that exceed memory to disk.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()
        self._all = SeenHashes()
        self._forgotten = False

    def distant(self) -> int:
        """Return how many records replaced another one of the same key that was long forgotten.

        Call this once, after the last record.
        """
        with self._all as hashes:
            return hashes.clashes() if self._forgotten else 0

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
        if known is None:
            self._all.add(hashlib.blake2b(identity.encode(), digest_size=8).digest() + digest[:8])
        self._digests[identity] = digest
        if len(self._digests) > _REMEMBERED:
            self._forgotten = True
            self._digests.popitem(last=False)
        return known is not None

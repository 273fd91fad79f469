"""A set of hashes, in memory and on disk."""

import os

import pytest

from quernstone_qdrant.loading import seen
from quernstone_qdrant.loading.seen import SeenHashes


@pytest.mark.parametrize("memory", [1 << 20, 64])
def test_subsets(monkeypatch, memory):
    monkeypatch.setattr(seen, "_MEMORY", memory)
    digests = [os.urandom(14) + bytes(2) for _ in range(500)] + [bytes(16)]
    with SeenHashes() as some, SeenHashes() as all_of_them, SeenHashes() as more:
        for digest in digests:
            all_of_them.add(digest)
            more.add(digest)
        for digest in digests[:300]:
            some.add(digest)
        more.add(os.urandom(16))
        assert (some <= all_of_them, all_of_them <= some) == (True, False)
        assert (all_of_them <= more, more <= all_of_them) == (True, False)
        assert all(digest in all_of_them for digest in digests)

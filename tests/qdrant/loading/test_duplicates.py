"""Two records of one load with the same key."""

import re

import pytest

from quernstone_qdrant import QdrantLoader, RecordError
from quernstone_qdrant.loading import batches, duplicates


@pytest.mark.parametrize("memory", [1 << 20, 64], ids=["memory", "disk"])
def test_equal_keys_that_are_far_apart_are_named(client, embedder, monkeypatch, memory):
    monkeypatch.setattr(duplicates, "_REMEMBERED", 10)
    monkeypatch.setattr("quernstone_qdrant.loading.seen._MEMORY", memory)
    records = [{"id": f"r{n}", "text": f"Mill {n}."} for n in range(50)]
    changed = [{"id": f"r{n}", "text": f"Another mill {n}."} for n in range(5)]
    loader = QdrantLoader(client, "docs", embedder)
    assert loader.load([*records, *records[:5]]).notes == ()
    with pytest.raises(RecordError, match="5 records replaced an earlier record") as raised:
        loader.load([*records, *changed])
    shown = re.search(r"again: 'r(\d)', 'r(\d)', 'r(\d)' and 2 more; give each", str(raised.value))
    assert len(set(shown.groups()) & set("01234")) == 3
    assert (loader.report.failed, loader.report.chunks) == (1, 55)

    tolerant = QdrantLoader(client, "docs", embedder, skip_errors=True)
    (note,) = tolerant.load([*records, *changed[:1]]).notes
    assert note.endswith("other content: 'r0'; " + batches._UNIQUE)

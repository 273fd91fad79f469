"""Two records of one load with the same key."""

import pytest

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.loading import duplicates


@pytest.mark.parametrize("memory", [1 << 20, 64], ids=["memory", "disk"])
def test_equal_keys_that_are_far_apart_are_counted(client, embedder, monkeypatch, memory):
    monkeypatch.setattr(duplicates, "_REMEMBERED", 10)
    monkeypatch.setattr("quernstone_qdrant.loading.seen._MEMORY", memory)
    records = [{"id": f"r{n}", "text": f"Mill {n}."} for n in range(50)]
    changed = [{"id": f"r{n}", "text": f"Another mill {n}."} for n in range(3)]
    loader = QdrantLoader(client, "docs", embedder)
    assert loader.load([*records, *records[:5]]).notes == ()
    report = loader.load([*records, *changed])
    assert report.failed == 0
    (note,) = report.notes
    assert note.startswith("3 records replaced a record of this load that has the same key ")

"""A long load freezes existing objects, so that garbage collection does not walk them."""

import gc

import pytest

from quernstone_qdrant import QdrantLoader, RecordError
from quernstone_qdrant.loading import run


@pytest.fixture(autouse=True)
def _nothing_frozen(monkeypatch):
    """Start like a fresh process: another test may have frozen its objects."""
    monkeypatch.setattr(run, "MANY_RECORDS", 4)
    gc.unfreeze()
    yield
    gc.unfreeze()


RECORDS = [{"id": str(n), "text": f"text {n}"} for n in range(5)]


def test_existing_objects_are_frozen_during_a_load_only(client, embedder):
    frozen = []
    loader = QdrantLoader(
        client, "docs", embedder, progress=lambda report: frozen.append(gc.get_freeze_count())
    )
    loader.load(RECORDS[:3])
    assert max(frozen) == 0
    loader.load(RECORDS)
    assert max(frozen) > 10_000
    assert gc.get_freeze_count() == 0
    with pytest.raises(RecordError):
        loader.load([*RECORDS, {"id": "no text"}])
    assert frozen[-1] > 10_000
    assert gc.get_freeze_count() == 0


def test_objects_that_the_program_froze_stay_frozen(client, embedder):
    gc.freeze()
    count = gc.get_freeze_count()
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    assert gc.get_freeze_count() > 0.9 * count  # a few of them were deallocated

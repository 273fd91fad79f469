"""What Python's garbage collector walks while a load runs."""

import gc

import pytest

from quernstone_qdrant import QdrantLoader, RecordError


@pytest.fixture(autouse=True)
def _nothing_frozen():
    """As it is in a fresh process: another test may have run a program that freezes objects."""
    gc.unfreeze()
    yield
    gc.unfreeze()


RECORDS = [{"id": str(n), "text": f"text {n}"} for n in range(5)]


def test_a_load_keeps_it_from_what_was_there_and_gives_it_back(client, embedder):
    frozen = []
    loader = QdrantLoader(
        client, "docs", embedder, progress=lambda report: frozen.append(gc.get_freeze_count())
    )
    loader.load(RECORDS)
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0
    with pytest.raises(RecordError):
        loader.load([*RECORDS, {"id": "no text"}])
    assert gc.get_freeze_count() == 0


def test_a_program_that_froze_its_objects_itself_keeps_them_so(client, embedder):
    gc.freeze()
    count = gc.get_freeze_count()
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    assert gc.get_freeze_count() > 0.9 * count  # some were let go of

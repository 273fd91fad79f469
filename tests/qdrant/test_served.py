"""Collections of a model behind `quern serve`, and of the same model in this process."""

from dataclasses import replace

import pytest
from tests.core.serve.conftest import running

from quernstone import Embedder
from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.targets import as_target

RECORDS = [
    {"id": "1", "text": "a quern grinds grain"},
    {"id": "2", "text": "it rains"},
    {"id": "3", "text": "a fox jumps over a dog"},
]


@pytest.fixture(scope="module")
def embedders():
    with (
        running(rerank=None) as url,
        Embedder("tiny", dtype="float32") as local,
        Embedder(url) as remote,
    ):
        yield {"process": local, "server": remote}


@pytest.mark.parametrize("there", ["process", "server"])
@pytest.mark.parametrize("here", ["process", "server"])
def test_a_collection_of_one_is_searched_and_extended_by_the_other(client, embedders, here, there):
    report = QdrantLoader(client, "texts", embedders[here]).load(RECORDS[:2])
    assert report.embedded == 2
    recorded = Provenance.read(as_target(client, "texts").state())
    of_the_other = Provenance.of(embedders[there], "texts")
    own = {"settings": recorded.settings, "identity": recorded.identity}
    assert recorded == replace(of_the_other, **own)
    scores = [
        {hit.key: hit.score for hit in QdrantSearcher(client, "texts", each).search("grain")}
        for each in (embedders[there], embedders[here])
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    again = QdrantLoader(client, "texts", embedders[there]).load(RECORDS)
    assert (again.embedded, again.skipped) == (1, 2)

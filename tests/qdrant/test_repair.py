"""`repair` rewrites what can be computed, and leaves the rest to the next load."""

from contextlib import closing

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, EdgeTarget, QdrantLoader
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.documents.points import point_id
from quernstone_qdrant.errors import CollectionReplacedError, WriteError
from quernstone_qdrant.repair import repair
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import ClientTarget, as_target
from quernstone_qdrant.verify import verify

RECORDS = [
    {"id": f"d{n}", "text": f"The mill number {n} grinds rye.", "n": n, "f": n / 7}
    for n in range(120)
]
PLACES = ("embedded", "edge", "rest", "grpc")


@pytest.fixture(params=PLACES)
def target(request, tmp_path):
    if request.param == "edge":
        with closing(EdgeTarget(tmp_path, "docs")) as target:
            yield target
    elif request.param == "embedded":
        with closing(as_target(QdrantClient(":memory:"), "docs")) as target:
            yield target
    else:
        with (
            running_server() as server,
            closing(server.client(prefer_grpc=request.param == "grpc")) as client,
        ):
            server.float_noise = server.shuffle_keys = True
            yield as_target(client, "docs")


def ids_of(loader, numbers):
    return [point_id(loader.provenance.namespace, f"d{n}", 0) for n in numbers]


@pytest.mark.parametrize("datatype", ["float32", "float16", "uint8"])
def test_everything_that_can_be_computed_is_repaired(target, embedder, datatype):
    preset = CollectionSettings(vector="dense", prefix=32, datatype=datatype)
    loader = QdrantLoader(target, "docs", embedder, preset=preset, hybrid=True)
    loader.load(RECORDS)
    embedded = len(embedder.embedded)
    texts, prefixes, fields = (ids_of(loader, ns) for ns in (range(110), (3, 4), (4, 5, 6)))
    other = [loader.provenance.settings.bm25_text("The mill number 8 grinds wheat.")]
    target.update(texts, [{}] * 110, {"bm25": other * 110})
    target.update(prefixes, [{}] * 2, {"prefix": np.eye(32, dtype=np.float32)[:2]})
    target.update(fields, [{"page_content": "x"}, {"metadata": {}}, {"_node_content": "{"}], {})
    assert verify(target, None).failures == 110 + 2 + 3

    for dry_run in (True, False):
        report = repair(target, dry_run=dry_run)
        assert (report.bm25, report.prefixes, report.payloads) == (110, 2, 3), report
        assert report.complete
    assert (report.points, report.foreign, report.unchecked) == (120, 0, 0)
    verified = verify(target, None)
    assert verified.passed, verified.problems
    assert len(embedder.embedded) == embedded
    assert loader.load(RECORDS).embedded == 0
    again = repair(target)
    assert (again.bm25, again.prefixes, again.payloads) == (0, 0, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_computed_is_left_to_the_next_load(client, embedder, layout):
    target = as_target(client, "docs")
    loader = QdrantLoader(target, "docs", embedder, layout=layout)
    loader.load(RECORDS)
    (point,) = ids_of(loader, [7])
    changed = {"_node_content": "{}", "page_content": "x", "text": "x"}
    target.update([point], [changed], {})
    assert loader.load(RECORDS).embedded == 0

    report = repair(target, dry_run=True)
    assert (report.reloading, report.complete) == (1, False)
    assert loader.load(RECORDS).embedded == 0
    report = repair(target)
    assert (report.reloading, report.broken, report.payloads) == (1, 0, 0)
    assert f"point {point} (record 'd7', chunk 0)" in report.problems[0]
    assert not verify(target, None).passed
    assert loader.load(RECORDS).embedded == 1
    verified = verify(target, embedder)
    assert verified.passed, verified.problems


def test_a_wrong_full_vector_is_left_to_the_next_load(client, embedder):
    target = as_target(client, "docs")
    loader = QdrantLoader(target, "docs", embedder, preset="mrl")
    loader.load(RECORDS)
    target.update(ids_of(loader, [7]), [{}], {"dense": np.zeros((1, 64), np.float32)})
    report = repair(target)
    assert (report.reloading, report.prefixes) == (1, 0)
    assert "its vector `dense` has length 0.000" in report.problems[0]
    assert loader.load(RECORDS).embedded == 1
    assert verify(target, embedder).passed


def test_points_that_no_load_replaces_are_named(client, embedder):
    target = as_target(client, "docs")
    loader = QdrantLoader(target, "docs", embedder)
    loader.load(RECORDS)
    one, other = ids_of(loader, [7, 8])
    payloads = {point.id: point.payload for point in target.scroll(None)}
    target.update([one, other], [payloads[other], {"quernstone": {"key": 5}}], {})
    report = repair(target)
    assert (report.broken, report.complete) == (2, False)
    assert {problem[: 10 + 32] for problem in report.problems} == {f"point {one}", f"point {other}"}


def test_a_collection_of_another_program_is_refused(client, embedder):
    loader = QdrantLoader(client, "docs", embedder)
    client.update_collection("docs", metadata={"quernstone": None})
    with pytest.raises(CollectionError, match="can be repaired"):
        repair(as_target(client, loader.collection))


@pytest.mark.parametrize("target", ["edge", "rest", "grpc"], indirect=True)
def test_payload_indexes_are_repaired(target, embedder):
    preset = CollectionSettings(indexes={"n": "integer", "f": "float"})
    QdrantLoader(target, "docs", embedder, preset=preset).load(RECORDS)
    assert verify(target, None).passed
    if target.kind == "edge":
        for path in ("quernstone.key", "metadata.n"):
            target._shard().update(edge.UpdateOperation.delete_field_index(path))
    else:
        target.client.delete_payload_index("docs", "quernstone.key")
        target.client.delete_payload_index("docs", "metadata.n")
    report = verify(target, None)
    assert report.failures == 2
    assert report.problems[0].startswith("the payload index of `metadata.n` is missing")
    for dry_run in (True, False):
        repaired = repair(target, dry_run=dry_run)
        assert repaired.indexes == ("metadata.n", "quernstone.key")
        assert repaired.complete
        assert verify(target, None).passed != dry_run


def test_an_index_of_another_type_is_replaced(embedder):
    with running_server() as server, closing(server.client()) as client:
        target = as_target(client, "docs")
        QdrantLoader(
            target, "docs", embedder, preset=CollectionSettings(indexes={"n": "integer"})
        ).load(RECORDS)
        client.delete_payload_index("docs", "metadata.n")
        client.create_payload_index("docs", "metadata.n", "keyword")
        report = verify(target, None)
        assert "has type 'keyword' instead of 'integer'" in report.problems[0]
        assert repair(target).indexes == ("metadata.n",)
        assert verify(target, None).passed


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_collection_that_is_replaced_meanwhile_is_not_written(embedder, grpc):
    """The new one has other texts under the same ids."""
    others = [{**record, "text": f"Rye is ground {record['n']} times."} for record in RECORDS]
    with running_server() as server, closing(server.client(prefer_grpc=grpc)) as client:

        class Replaced(ClientTarget):
            def scroll(self, *arguments, **options):
                yield from super().scroll(*arguments, **options)
                client.delete_collection("docs")
                QdrantLoader(client, "docs", embedder, hybrid=True).load(others)

        loader = QdrantLoader(client, "docs", embedder, hybrid=True)
        loader.load(RECORDS)
        target = Replaced(client, "docs")
        wrong = loader.provenance.settings.bm25_text("wheat")
        target.update(ids_of(loader, [3]), [{}], {"bm25": [wrong]})
        with pytest.raises(CollectionReplacedError, match="deleted and created again"):
            repair(target)
        assert verify(as_target(client, "docs")).passed


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_a_write_that_is_too_large_is_divided(embedder, grpc):
    rows = [{"id": f"d{n}", "text": "mill", "blob": "x" * 3000} for n in range(40)]
    with running_server() as server, closing(server.client(prefer_grpc=grpc)) as client:
        loader = QdrantLoader(client, "docs", embedder)
        loader.load(rows)
        ids = ids_of(loader, range(40))
        client.set_payload("docs", {"metadata": {}}, points=ids)
        server.request_bytes = {"rest": 20_000, "grpc": 20_000}
        assert repair(as_target(client, "docs")).payloads == 40
        server.request_bytes = {"rest": 5_000, "grpc": 5_000}
        assert verify(as_target(client, "docs"), sample=0).passed
        server.request_bytes = {"rest": 1_000, "grpc": 1_000}
        client.set_payload("docs", {"metadata": {}}, points=ids[:1])
        with pytest.raises(WriteError, match=f"(larger than|too large).*points {ids[0]}"):
            repair(as_target(client, "docs"))

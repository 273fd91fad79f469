"""Writes that are refused because of a few points."""

import orjson
import pytest
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone_qdrant import (
    QdrantLoader,
    QdrantSearcher,
    Record,
    RecordError,
    TargetError,
    WriteError,
    read_paths,
)
from quernstone_qdrant.documents.json_values import NESTING
from quernstone_qdrant.errors import RefusedError, TransientError
from quernstone_qdrant.targets import ClientTarget

SETTINGS = {"chunk_size": 20, "chunk_overlap": 0}


def records(count, *bad):
    return [
        {"id": f"d{n}", "text": "a mill. " * 3, "refused": True} if n in bad
        # only the second chunk of a document
        else {"id": f"d{n}", "text": f"a mill {n}"}
        for n in range(count)
    ]  # fmt: skip


class Picky(ClientTarget):
    """Refuses the second chunk of the documents with a field `refused`."""

    everything = False

    def upsert(self, ids, payloads, vectors):
        self.requests = [*getattr(self, "requests", []), len(ids)]
        for payload in payloads:
            data = payload["metadata"]
            if self.everything or ("refused" in data and data["chunk"] == 1):
                raise RefusedError("Qdrant failed: status 400: bad request")
        super().upsert(ids, payloads, vectors)


@pytest.fixture
def target():
    target = Picky(QdrantClient(":memory:"), "docs")
    yield target
    target.close()


def keys(target):
    return [(p.payload["quernstone"]["key"], p.payload["chunk"]) for p in target.scroll(None)]


def test_refused_points_are_named_counted_and_kept(target, embedder, tmp_path):
    path, errors = tmp_path / "left-out.jsonl", []
    loader = QdrantLoader(
        target, "docs", embedder, dead_letter=path, on_error=errors.append, **SETTINGS
    )
    report = loader.load(records(100, 7, 8, 99))
    assert (report.failed, report.embedded) == (3, report.chunks - 3)
    assert target.count() == report.embedded
    assert [str(error) for error in errors] == [
        f"record 'd{n}': chunk 1 is refused: Qdrant failed: status 400: bad request; the request "
        f"holds only chunk 1 of record 'd{n}'"
        for n in (7, 8, 99)
    ]
    assert len(target.requests) < 50
    assert [record.key for record in read_paths(path)] == ["d7", "d8", "d99"]
    assert loader.load(records(100)).failed == 0  # cured
    assert target.count() == 100


def test_without_skipping_the_first_refused_point_ends_the_load(target, embedder):
    loader = QdrantLoader(target, "docs", embedder, **SETTINGS)
    with pytest.raises(WriteError, match=r"only chunk 1 of record 'd7'") as caught:
        loader.load(records(20, 7))
    assert target.count() == 8  # seven documents, and a chunk of the eighth
    assert len(caught.value.ids) == len(embedder.embedded) - 8


@pytest.mark.parametrize("skip_errors", [True, False])
def test_a_refusal_of_every_point_is_no_fault_of_the_records(target, embedder, skip_errors):
    loader = QdrantLoader(target, "docs", embedder, skip_errors=skip_errors, **SETTINGS)
    target.everything = True
    with pytest.raises(WriteError, match="status 400"):
        loader.load(records(20))
    assert (loader.report.failed, loader.report.embedded) == (0, 0)


def test_another_error_in_a_part_ends_the_load(target, embedder, monkeypatch):
    loader = QdrantLoader(target, "docs", embedder, skip_errors=True, **SETTINGS)
    upsert = target.upsert

    def failing(ids, payloads, vectors):
        if len(ids) < 10:
            raise TargetError("status 403")
        upsert(ids, payloads, vectors)

    monkeypatch.setattr(target, "upsert", failing)
    with pytest.raises(WriteError, match="status 403"):
        loader.load(records(20, 7))


@pytest.fixture(params=["rest", "grpc"])
def grpc(request):
    return request.param == "grpc"


def nested(levels, kind):
    value = 1
    for level in range(levels):
        value = [value] if kind == "lists" or (kind == "mixed" and level % 2) else {"a": value}
    return value


@pytest.mark.parametrize("kind", ["objects", "lists", "mixed"])
def test_both_transports_take_the_same_nesting(grpc, embedder, kind, tmp_path):
    """What either takes can be found over both."""
    path, errors = tmp_path / "left-out.jsonl", []
    depths = [1, NESTING - 1, NESTING, NESTING + 1, 40, 100, 122, 130, 240]
    with running_server() as server:
        client = server.client(prefer_grpc=grpc)
        loader = QdrantLoader(client, "docs", embedder, dead_letter=path, on_error=errors.append)
        report = loader.load(
            {"id": f"d{n}", "text": f"mill {n}", "deep": nested(n, kind)} for n in depths
        )
        assert (report.seen, report.embedded, report.failed) == (9, 3, 6)
        assert [error.key for error in errors] == [f"d{n}" for n in depths if n > NESTING]
        for again in (False, True):
            searcher = QdrantSearcher(server.client(prefer_grpc=again), "docs", embedder)
            hits = {hit.key: hit.metadata["deep"] for hit in searcher.search("mill")}
            assert hits == {f"d{n}": nested(n, kind) for n in depths if n <= NESTING}
    assert [orjson.loads(line)["value"]["id"] for line in path.read_bytes().splitlines()] == [
        error.key for error in errors
    ]


def endless():
    value = {}
    value["itself"] = value
    return value


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: nested(NESTING + 1, "objects"), r"`deep(\.a){28}`"),
        (lambda: {"x": [0, nested(2_000, "lists")]}, r"`deep\.x\[1\](\[0\])+`"),
        (endless, r"`deep(\.itself)+`"),
    ],
)
@pytest.mark.parametrize("record", [True, False])
def test_one_nested_record_does_not_stop_the_others(client, embedder, tmp_path, make, path, record):
    metadata = {"deep": make()}
    bad = Record("bad", "mill", metadata) if record else {"id": "bad", "text": "mill", **metadata}
    rows = [{"id": f"d{n}", "text": f"mill {n}"} for n in range(99)]
    with pytest.raises(RecordError, match=f"record 'bad': the metadata field {path} is nested"):
        QdrantLoader(client, "docs", embedder).load([*rows, bad])
    letters = tmp_path / "left-out.jsonl"
    loader = QdrantLoader(client, "docs", embedder, dead_letter=letters)
    report = loader.load([bad, *rows])
    assert (report.skipped, report.failed, client.count("docs").count) == (99, 1, 99)
    assert "is nested" in orjson.loads(letters.read_bytes())["quernstone_dead_letter"]


def test_a_nested_row_of_a_file_is_named(client, embedder, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"text": "a"}\n{"text": "b", "deep": ' + "[" * 900 + "]" * 900 + '}\n{"text": "c"}\n'
    )
    errors = []
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True, on_error=errors.append)
    assert loader.load(read_paths(tmp_path / "rows.jsonl")).embedded == 2
    assert (errors[0].row, "nested more than 28 levels" in str(errors[0])) == (2, True)


def test_what_the_client_cannot_encode_is_one_records_fault(grpc, embedder, monkeypatch, tmp_path):
    """Deeper than the check allows: a protobuf error, or a refusal by the server."""
    monkeypatch.setattr("quernstone_qdrant.documents.json_values.NESTING", 200)
    errors, path = [], tmp_path / "left-out.jsonl"
    rows = [{"id": f"d{n}", "text": f"mill {n}"} for n in range(100)]
    rows[20]["deep"] = nested(140, "objects")
    with running_server() as server:
        client = server.client(prefer_grpc=grpc)
        loader = QdrantLoader(client, "docs", embedder, dead_letter=path, on_error=errors.append)
        report = loader.load(rows)
        assert (report.failed, report.embedded, report.retries) == (1, 99, 0)
        assert len(server.collections["docs"].points(0)) == 99
        assert errors[0].key == "d20"
        assert "record 'd20': chunk 0 is refused" in str(errors[0])
        assert [record.key for record in read_paths(path)] == ["d20"]
        rows[20]["id"] = "new"
        with pytest.raises(WriteError, match=r"chunk 0 of record 'new'"):
            QdrantLoader(client, "docs", embedder).load(rows)


def test_a_stored_point_that_is_too_deep_for_grpc_is_named(embedder):
    """An older version stored it by REST, which still finds it."""
    with running_server() as server:
        rest, grpc = (server.client(prefer_grpc=by_grpc) for by_grpc in (False, True))
        rows = [{"id": f"d{n}", "text": f"mill {n}"} for n in range(3)]
        QdrantLoader(rest, "docs", embedder, layout="plain").load(rows)
        (point, *_), _ = rest.scroll("docs")
        rest.set_payload("docs", {"deep": nested(60, "objects")}, points=[point.id])
        assert len(QdrantSearcher(rest, "docs", embedder).search("mill")) == 3
        with pytest.raises(TargetError, match="nested deeper than gRPC can return") as raised:
            QdrantSearcher(grpc, "docs", embedder).search("mill")
        assert not isinstance(raised.value, TransientError)
        assert QdrantLoader(grpc, "docs", embedder, layout="plain").load(rows).skipped == 3


def test_a_large_record_is_left_out_by_either_transport(grpc, embedder, tmp_path):
    large = {"id": "large", "text": "mill", "blob": "x" * (36 << 20)}
    rows = [{"id": f"d{n}", "text": f"mill {n}"} for n in range(9)]
    errors, path = [], tmp_path / "left-out.jsonl"
    with running_server() as server:
        server.request_bytes = {"rest": 32 << 20, "grpc": 1 << 30}
        client = server.client(prefer_grpc=grpc)
        loader = QdrantLoader(client, "docs", embedder, dead_letter=path, on_error=errors.append)
        report = loader.load([*rows[:5], large, *rows[5:]])
        assert (report.failed, report.embedded) == (1, 9)
        assert len(server.collections["docs"].points(0)) == 9
    assert "record 'large': chunk 0 is refused" in str(errors[0])
    assert "alone is about 113,2" in str(errors[0])  # the layout stores metadata three times
    assert [record.key for record in read_paths(path)] == ["large"]

"""Documents of different sources with equal keys."""

import pytest

from quernstone_qdrant import CollectionError, QdrantLoader, Record, RecordError, read_paths
from quernstone_qdrant.sources import ReadOptions

LONG = " ".join(f"word{n}" for n in range(400))


@pytest.fixture
def texts(client):
    def texts():
        points, _ = client.scroll("docs", limit=1000)
        return sorted(point.payload["page_content"] for point in points)

    return texts


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Two files whose rows have equal ids."""
    for name in ("products", "customers"):
        rows = (f'{{"id": {n}, "text": "{name} {n}"}}\n' for n in (1, 2))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)


def read(name, **options):
    return read_paths(f"{name}.jsonl", options=ReadOptions(id_field="id", **options))


@pytest.mark.usefixtures("shop")
def test_another_sources_documents_are_not_replaced(client, embedder, texts):
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(read("products"))
    with pytest.raises(RecordError, match=r"record '1': it comes from 'customers.jsonl'") as raised:
        loader.load(read("customers"))
    for part in ("from 'products.jsonl'", "--replace-sources", "--namespace NAME"):
        assert part in str(raised.value)
    assert loader.report.failed == 1
    assert texts() == ["products 1", "products 2"]

    tolerant = QdrantLoader(client, "docs", embedder, skip_errors=True)
    report = tolerant.load([*read("customers"), Record("3", "new", source="customers.jsonl")])
    assert (report.failed, report.embedded, report.replaced) == (2, 1, 0)
    assert texts() == ["new", "products 1", "products 2"]

    report = loader.load(read("customers", namespace="customers"))
    assert (report.embedded, report.failed) == (2, 0)
    assert texts() == ["customers 1", "customers 2", "new", "products 1", "products 2"]
    assert loader.load(read("customers", namespace="customers"), prune=True).pruned == 0

    replacing = QdrantLoader(client, "docs", embedder, replace_sources=True)
    report = replacing.load(read("customers"))
    assert (report.embedded, report.replaced, report.failed) == (2, 2, 0)
    assert texts() == ["customers 1", "customers 1", "customers 2", "customers 2", "new"]
    assert replacing.load(read("customers")).replaced == 0


@pytest.mark.parametrize("skip_errors", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 2048])
def test_no_chunk_of_a_refused_document_is_written_or_deleted(
    client, embedder, stored, batch_size, skip_errors
):
    settings = {"chunk_size": 100, "chunk_overlap": 0}
    theirs = [Record("long", LONG, source="a"), Record("short", LONG[:300], source="a")]
    QdrantLoader(client, "docs", embedder, **settings).load(theirs)
    before = stored(client, "docs")
    loader = QdrantLoader(
        client, "docs", embedder, batch_size=batch_size, skip_errors=skip_errors, **settings
    )
    ours = [
        Record("first", "good", source="b"),
        Record("long", LONG[:500].replace("word3 ", "other "), source="b"),
        Record("short", "new " + LONG, source="b"),
        Record("last", "good", source="b"),
    ]
    if skip_errors:
        report = loader.load(ours)
        assert (report.failed, report.embedded, report.removed) == (2, 2, 0)
    else:
        with pytest.raises(RecordError, match="record 'long': it comes from 'b'"):
            loader.load(ours)
    after = stored(client, "docs")
    assert {i: after[i][0] for i in before} == {i: payload for i, (payload, _) in before.items()}
    new = {payload["quernstone"]["key"] for i, (payload, _) in after.items() if i not in before}
    assert new - {"last"} == {"first"}


def test_a_document_that_only_moved_is_accepted(client, embedder, texts):
    loader = QdrantLoader(client, "docs", embedder, chunk_size=100, chunk_overlap=0)
    loader.load([Record("a", LONG, source="old")])
    report = loader.load([Record("a", LONG, source="new")])
    assert (report.failed, report.embedded, report.replaced) == (0, report.chunks, 0)
    assert loader.load([Record("a", LONG[:200], source="old")]).removed > 0
    with pytest.raises(RecordError, match="from 'old'"):
        loader.load([Record("a", "word " + LONG, source="new")])
    loader.load([Record("b", "without a source")])
    assert loader.load([Record("b", "now with one", source="new")]).failed == 0
    with pytest.raises(RecordError, match="it comes from ''"):
        loader.load([Record("b", "and without one")])


@pytest.mark.usefixtures("shop")
def test_an_id_field_does_not_double_rows_that_are_stored_by_number(client, embedder, texts):
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True)
    loader.load(read_paths("products.jsonl"))
    with pytest.raises(CollectionError, match=r"id '1' is stored as 'products.jsonl#1'.*--prune"):
        loader.load(read("products"))
    assert texts() == ["products 1", "products 2"]
    report = loader.load(read("products"), prune=True)
    assert (report.embedded, report.pruned) == (2, 2)
    assert loader.load(read("products")).skipped == 2
    assert loader.load(read("customers", namespace="c")).embedded == 2

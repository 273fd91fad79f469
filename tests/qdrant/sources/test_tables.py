"""Tables in memory and data sets are read as records, a few rows at a time."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.sources import count_records

COLUMNS = {
    "id": [f"r{n}" for n in range(1200)],
    "text": [f"Row {n} of the mill." for n in range(1200)],
    "year": list(range(1200)),
}


def tables(tmp_path):
    table = pa.table(COLUMNS)
    pq.write_table(table, tmp_path / "rows.parquet")
    yield "Table", table
    yield "RecordBatch", table.to_batches()[0]
    yield "RecordBatchReader", table.to_reader(max_chunksize=100)
    yield "Dataset", ds.dataset(tmp_path / "rows.parquet")
    yield "Scanner", ds.dataset(table).scanner(columns=["id", "text", "year"])


@pytest.mark.parametrize("number", range(5))
def test_arrow(client, embedder, tmp_path, number):
    _, table = list(tables(tmp_path))[number]
    report = QdrantLoader(client, "docs", embedder).load(table)
    assert (report.seen, report.embedded) == (1200, 1200)
    rows = [{name: COLUMNS[name][n] for name in COLUMNS} for n in range(1200)]
    again = QdrantLoader(client, "docs", embedder).load(rows)
    assert again.skipped == 1200


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets(client, embedder, streaming):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(COLUMNS)
    report = QdrantLoader(client, "docs", embedder).load(
        rows.to_iterable_dataset() if streaming else rows
    )
    assert (report.seen, report.embedded) == (1200, 1200)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(client, embedder, library):
    frames = pytest.importorskip(library)
    report = QdrantLoader(client, "docs", embedder).load(frames.DataFrame(COLUMNS))
    assert (report.seen, report.embedded) == (1200, 1200)


@pytest.mark.parametrize("wrong", ["handbook/", b"bytes", {"id": "a", "text": "one record"}])
def test_what_is_not_many_records(client, embedder, wrong):
    with pytest.raises(ConfigError, match=r"pass an iterable of records, or `read_paths"):
        QdrantLoader(client, "docs", embedder).load(wrong)


def test_records_are_counted_without_reading_them(tmp_path, monkeypatch):
    pq.write_table(pa.table(COLUMNS), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "note.md").write_text("# Note")
    (tmp_path / "damaged.parquet").write_bytes(b"no")
    assert count_records([tmp_path]) == 1203
    monkeypatch.setattr("quernstone_qdrant.sources.files._COUNTED_BYTES", 10)
    assert count_records([tmp_path]) is None

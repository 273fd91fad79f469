"""Arrow values that Python cannot hold are errors of their rows."""

import subprocess
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from langchain_core.documents import Document
from pydantic import BaseModel

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, Record, read_paths
from quernstone_qdrant.sources.arrow import as_rows

FAR = 315_569_433_600  # seconds until the year 11970
BAD = {
    "year": pa.array([0, FAR], pa.timestamp("s")),
    "zoned": pa.array([0, FAR], pa.timestamp("s", tz="UTC")),
    "date": pa.array([0, 10**7], pa.date32()),
    "duration": pa.array([0, 2**62], pa.duration("s")),
    "nested": pa.array([{"when": 0}, {"when": FAR}], pa.struct({"when": pa.timestamp("s")})),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("from_file", [True, False])
def test_a_value_that_python_cannot_hold(client, embedder, tmp_path, name, from_file):
    column = BAD[name].take([0] * 49 + [1] + [0] * 149)
    table = pa.table({"id": [f"d{n}" for n in range(199)], "text": ["mill"] * 199, name: column})
    path = tmp_path / "t.parquet"
    if from_file:
        pq.write_table(table, path)
    errors = []
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True, on_error=errors.append)
    report = loader.load(read_paths(path, id_field="id") if from_file else table)
    assert (report.failed, report.embedded) == (1, 198)
    where = f"{path}, row 50" if from_file else "record '49'"
    assert str(errors[0]).startswith(f"{where}: `{name}` cannot be converted: ")


def test_nanoseconds_without_pandas_are_errors_of_their_rows():
    code = """
import sys
class WithoutPandas:
    def find_spec(self, name, *_):
        if name == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, WithoutPandas())
import pyarrow as pa
from quernstone.tables.parquet import batch_rows
times = pa.array([1_000, 1_001, 2_000], pa.timestamp("ns"))
for row in batch_rows(pa.record_batch({"n": [1, 2, 3], "when": times})):
    print(row["when"].isoformat() if isinstance(row, dict) else row)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    first, second, third = done.stdout.splitlines()
    assert (first, third) == ("1970-01-01T00:00:00.000001", "1970-01-01T00:00:00.000002")
    assert second.startswith("`when` cannot be converted: timestamp[ns] ")


class Numbers(BaseModel):
    values: list[int]


class Iterated(Numbers):
    def __iter__(self):
        return iter(self.values)


async def pages():
    yield "A quern."


@pytest.mark.parametrize(
    "single",
    [Document("A quern."), Numbers(values=[1]), Record("a", "A quern."), pages(), 3, None],
    ids=["document", "pydantic", "record", "async", "number", "none"],
)
def test_what_is_not_an_iterable_of_records_is_refused(single):
    with pytest.raises(ConfigError, match="pass an iterable of records") as error:
        as_rows(single)
    assert ("async for" in str(error.value)) == hasattr(single, "__aiter__")


def test_a_model_with_its_own_iterator_is_iterated():
    assert list(as_rows(Iterated(values=[1, 2]))) == [1, 2]


@pytest.mark.parametrize("kind", [pd.Series, pl.Series, pa.array, lambda v: pa.chunked_array([v])])
def test_a_series_of_texts(kind):
    assert list(as_rows(kind(["A quern.", "Rain."]))) == ["A quern.", "Rain."]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (pd.DataFrame({"id": [1, "x"], "text": ["a", "b"]}), "column id with type object"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "Duplicate column names"),
    ],
    ids=["types", "names"],
)
def test_a_frame_that_arrow_cannot_hold(frame, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        as_rows(frame)
    assert "each column one type" in str(error.value)


def test_an_index_that_becomes_a_field_is_announced():
    frame = pd.DataFrame({"text": ["a", "b", "c"]})
    assert list(as_rows(frame)) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    with pytest.warns(UserWarning, match="'__index_level_0__', and part of the key"):
        rows = list(as_rows(frame.iloc[[2, 0, 1]]))
    assert rows[0] == {"text": "c", "__index_level_0__": 2}

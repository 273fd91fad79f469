"""Values of files keep their meaning."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, Record, RecordError, read_paths
from quernstone_qdrant.sources import ReadOptions


def read(path, **options):
    records = read_paths(path, options=ReadOptions(**options))
    found = list(records)
    good = [
        {k: v for k, v in item.metadata.items() if k not in ("source", "row")}
        for item in found
        if isinstance(item, Record)
    ]
    return good, [str(item) for item in found if not isinstance(item, Record)], records.files


def test_parquet_decimals(tmp_path):
    values = [Decimal("1.50"), Decimal("123456789012345.00"), None, Decimal("1234567890123456.78")]
    table = pa.table({"text": ["a"] * 4, "price": pa.array(values, pa.decimal128(20, 2))})
    pq.write_table(table, tmp_path / "t.parquet")
    good, errors, files = read(tmp_path / "t.parquet")
    assert [row["price"] for row in good] == [1.5, 123456789012345.0, None, "1234567890123456.78"]
    assert (errors, files.values) == (
        [],
        {"decimals of more than 15 digits in `price`, stored as strings": 1},
    )


def test_json_numbers(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"text": "a", "x": NaN, "y": [1, -Infinity, Infinity]}\n'
        '{"text": "NaN and Infinity", "x": 1}\n'
        f'{{"text": "c", "x": {2**70}, "y": [{-(2**80)}], "z": {2**63 - 1}}}\n'
        f'{{"text": "d", "x": {"9" * 5000}, "y": 0.12345678901234567890123}}\n'
        '{"text": "e", "x": NaN\n' + '{"text": "f", "x": 12345678901234567890\n'
    )
    good, errors, files = read(path)
    assert good == [
        {"x": None, "y": [1, None, None]},
        {"x": 1},
        {"x": str(2**70), "y": [str(-(2**80))], "z": 2**63 - 1},
        {"x": "9" * 5000, "y": 0.12345678901234568},
    ]
    assert [error.split(": ")[1] for error in errors] == ["is not valid JSON"] * 2
    assert files.values == {"NaN or Infinity, stored as null": 3}


def test_types_of_csv_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "text,price,year,day,at,yes,zip\n"
        "a,1.5,1200,2026-01-02,2026-01-02T03:04:05+00:00,true,007\n"
        "b,2,-1,2026-01-03,2026-01-02 03:04,FALSE,123\n"
        "c,,,,,,\n"
    )
    wanted = [
        {"price": 1.5, "year": 1200, "day": "2026-01-02", "at": "2026-01-02T03:04:05+00:00",
         "yes": True, "zip": "007"},
        {"price": 2.0, "year": -1, "day": "2026-01-03", "at": "2026-01-02T03:04:00",
         "yes": False, "zip": "123"},
        {"price": None, "year": None, "day": None, "at": None, "yes": None, "zip": ""},
    ]  # fmt: skip
    types = {"price": "float", "year": "int", "day": "date", "at": "datetime", "yes": "bool"}
    assert read(path, types=types)[:2] == (wanted, [])
    assert read(path, infer_types=True)[:2] == (wanted, [])
    assert read(path)[0][0]["price"] == "1.5"
    with path.open("a") as file:
        file.write("d,cheap,1.5,3,x,maybe,1\n")
    good, (error,), _ = read(path, types=types)
    assert good == wanted
    assert error.endswith("row 4: `price` is 'cheap', not of type float (`--types price=str` keeps "
                          "it as text)")  # fmt: skip
    assert "no column `cost` for `types`" in read(path, types={"cost": "int"})[1][0]
    with pytest.raises(ConfigError, match="the type 'number' for column 'x'"):
        ReadOptions(types={"x": "number"})


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "t.csv").write_text("text,a,a\nx,1,2\n")
    assert "has more than one column `a`" in read(tmp_path / "t.csv")[1][0]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("float", [1, 2.5, None, [1.0]], "9.99"),
        ("integer", [1, [1, 2], -5], 1.5),
        ("bool", [True], 1),
        ("keyword", ["x", ["y"]], 5),
        ("datetime", ["2026-01-02", "2026-01-02T03:04:05Z"], "yesterday"),
        ("uuid", ["6a1f0bd2-5c0e-5d0c-9a55-0d1b3f6f6c21"], "six"),
    ],
)
@pytest.mark.parametrize("field", ["price", "deep.price"])
def test_a_value_that_its_index_does_not_hold(client, embedder, kind, good, bad, field):
    def record(n, value):
        metadata = {"price": value} if field == "price" else {"deep": {"price": value}}
        return {"id": f"d{n}", "text": "mill", **metadata}

    loader = QdrantLoader(client, "docs", embedder, settings={"indexes": {field: kind}})
    assert loader.load([record(n, value) for n, value in enumerate(good)]).failed == 0
    with pytest.raises(RecordError, match=rf"record 'd9': the metadata field `{field}` is "):
        loader.load([record(9, bad)])

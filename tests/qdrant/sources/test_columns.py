"""Text from several columns, chosen metadata, ids, partitions and a limit."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, Record, read_paths
from quernstone_qdrant.sources import ReadOptions

ROWS = [{"sku": 7, "title": "Quern", "about": "A mill.", "price": 9.5, "secret": "x"}]


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def shop(request, tmp_path):
    path = tmp_path / f"shop.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif request.param == "csv":
        path.write_text("sku,title,about,price,secret\n7,Quern,A mill.,9.5,x\n")
    else:
        path.write_text('{"sku":7,"title":"Quern","about":"A mill.","price":9.5,"secret":"x"}\n')
    return path


def read(path, **options):
    options.setdefault("types", {"sku": "int", "price": "float"} if path.suffix == ".csv" else {})
    records = read_paths(path, options=ReadOptions(**options))
    return list(records), records.files


@pytest.mark.parametrize(
    ("options", "metadata"),
    [
        ({}, {"price": 9.5, "secret": "x"}),
        ({"drop": ["secret"]}, {"price": 9.5}),
        ({"metadata": ["title", "price"]}, {"title": "Quern", "price": 9.5}),
        ({"metadata": []}, {}),
    ],
    ids=["all", "drop", "chosen", "none"],
)
def test_metadata_of_several_text_columns(shop, options, metadata):
    ([record], _) = read(shop, text_field=["title", "about"], id_field="sku", **options)
    assert (record.key, record.text) == ("7", "title: Quern\nabout: A mill.")
    own = {"source": shop.name, "row": 1}
    assert record.metadata == {**own, **metadata, "sku": 7}
    ([record], _) = read(shop, text_field="title", id_field="sku", drop=["sku"])
    assert "sku" not in record.metadata


def test_columns_that_are_not_there(shop):
    for option in ("metadata", "drop"):
        (found, files) = read(shop, text_field="title", **{option: ["prize"]})
        if shop.suffix == ".jsonl":  # a later row may have it
            assert files.values == {"rows without `prize`, which --metadata or --drop names": 1}
        else:
            assert f"no column `prize` for `{option}` (`--{option}`); the columns" in str(found[0])
    with pytest.raises(ConfigError, match="both name price"):
        ReadOptions(metadata=["price"], drop=["price"])


def test_partitions_are_metadata(tmp_path):
    folder = (
        tmp_path / "sales" / "year=2026" / "city=New%20York" / "shop=__HIVE_DEFAULT_PARTITION__"
    )
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a"], "city": ["Rome"]}), folder / "part.parquet")
    (folder / "note.txt").write_text("not a table")
    found, _ = read(tmp_path / "sales", types={"year": "int"})
    table = next(record for record in found if "row" in record.metadata)
    metadata = {name: table.metadata[name] for name in ("year", "city", "shop")}
    assert metadata == {"year": 2026, "city": "Rome", "shop": None}  # a column comes first
    (error, *_) = [item for item in read(tmp_path / "sales", types={"city": "int"})[0]
                   if not isinstance(item, Record)]  # fmt: skip
    assert "the partition `city` is 'New York', not of type int" in str(error)


def test_a_limit_ends_the_walk_and_never_prunes(client, embedder, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("text\n" + "".join(f"{name}{n}\n" for n in range(3)))
    found, files = read(tmp_path, limit=4)
    assert [record.text for record in found] == ["a0", "a1", "a2", "b0"]
    assert (files.found, files.loaded) == (2, 2)
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(read_paths(tmp_path))
    with pytest.raises(ConfigError, match="pruning would delete what was not read"):
        loader.load(read_paths(tmp_path, options=ReadOptions(limit=1)), prune=True)
    with pytest.raises(ConfigError, match="`limit` is 0"):
        ReadOptions(limit=0)


def test_old_collections_keep_their_metadata(client, embedder, tmp_path):
    """Version 0.1.0 stored neither the id nor the partitions of a row as metadata."""
    folder = tmp_path / "d" / "year=2026"
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("id,text\n1,mill\n")
    metadata = []
    for rule in (1, 2):
        loader = QdrantLoader(client, f"c{rule}", embedder, settings={"record_rule": rule})
        loader.load(read_paths(tmp_path / "d", id_field="id"))
        (point,), _ = client.scroll(f"c{rule}")
        metadata.append(point.payload["metadata"])
    own = {"source": "year=2026/t.csv", "row": 1}
    assert [{k: m[k] for k in m if k in ("id", "year", *own)} for m in metadata] == [
        own, {"id": "1", "year": "2026", **own}
    ]  # fmt: skip

import os
import random
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone_qdrant import Record, SourceError, read_paths
from quernstone_qdrant.documents.records import to_record
from quernstone_qdrant.sources import ReadOptions


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(*paths, **options):
    """Split what was read into {key: (text, metadata)} and error texts."""
    found = list(read_paths(paths, **options))
    records = {r.key: (r.text, r.metadata) for r in found if isinstance(r, Record)}
    return records, [str(e) for e in found if isinstance(e, SourceError)]


def test_folder_in_a_fixed_order_without_hidden_and_unknown_files(tmp_path):
    write(
        tmp_path,
        {
            "b.txt": "\ufeffwith a BOM",
            "a/deep/c.MD": "# Title\n\nbody",
            "a/x.rst": "rest",
            ".git/config.txt": "hidden",
            ".hidden.txt": "hidden",
            "image.png": b"\x89PNG",
            "z.ndjson": '{"text": "row"}\n',
        },
    )
    records = list(read_paths(tmp_path))
    assert [record.key for record in records] == ["a/deep/c.MD", "a/x.rst", "b.txt", "z.ndjson#1"]
    assert [record.format for record in records] == ["markdown", "text", "text", "text"]
    assert records[2].text == "with a BOM"
    assert records[2].metadata == {"source": "b.txt"}


def test_a_file_by_itself_is_named_as_it_was_given(tmp_path, monkeypatch):
    write(tmp_path, {"a/b.txt": "text", "b.txt": "other"})
    assert read(tmp_path / "a/b.txt") == ({"b.txt": ("text", {"source": "b.txt"})}, [])
    monkeypatch.chdir(tmp_path)
    assert list(read("./b.txt", "a/b.txt")[0]) == ["b.txt", "a/b.txt"]


def test_jsonl(tmp_path):
    lines = [
        {"content": "one", "n": 1, "source": "their own"},
        {"content": "two", "deep": {"a": [1, None]}},
    ]
    data = b"\xef\xbb\xbf" + b"\n\n".join(map(orjson.dumps, lines))
    write(tmp_path, {"rows.jsonl": data})
    records, errors = read(tmp_path)
    assert errors == []
    assert records == {
        "rows.jsonl#1": ("one", {"n": 1, "source": "their own", "row": 1}),
        "rows.jsonl#3": ("two", {"deep": {"a": [1, None]}, "source": "rows.jsonl", "row": 3}),
    }


def test_bad_lines_of_jsonl_are_named_and_passed_over(tmp_path):
    lines = [
        '{"text": "good", "id": 1}',
        '{"text": "cut off',
        "[1, 2]",
        '{"name": "no text"}',
        '{"text": null}',
        b'{"text": "\xff"}',
        '{"text": "\\ud800"}',
        '{"text": "also good"}',
    ]
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    write(tmp_path, {"rows.jsonl": data})
    records, errors = read(tmp_path)
    path = tmp_path / "rows.jsonl"
    assert list(records) == ["rows.jsonl#1", "rows.jsonl#8"]
    assert [error.split(": ")[0] for error in errors] == [f"{path}, row {n}" for n in range(2, 8)]
    assert "row 2: is not valid JSON: " in errors[0]
    assert errors[1].endswith("row 3: is not a JSON object but list")
    assert errors[2].endswith("row 4: no field `text`; the fields are `name`")
    assert errors[3].endswith("row 5: `text` is null, not a string")
    assert "row 6: is not valid JSON: " in errors[4]


def test_ids_of_rows(tmp_path):
    write(
        tmp_path, {"rows.jsonl": '{"text": "a", "id": 7}\n{"text": "b"}\n{"text": "c", "id": ""}'}
    )
    records, errors = read(tmp_path, id_field="id")
    assert records == {"7": ("a", {"id": 7, "source": "rows.jsonl", "row": 1})}
    assert errors[0].endswith(
        "row 2: the id in `id` is None; it must be a non-empty string or an integer"
    )
    assert errors[1].endswith(
        "row 3: the id in `id` is ''; it must be a non-empty string or an integer"
    )


def test_csv(tmp_path):
    write(tmp_path, {"t.csv": '\ufeffid,body,year\r\n1,"two\nlines",1200\r\n\r\n2,"a,b",1300\r\n'})
    records, errors = read(tmp_path, id_field="id")
    assert errors == []
    assert records == {
        "1": ("two\nlines", {"id": "1", "year": "1200", "source": "t.csv", "row": 1}),
        "2": ("a,b", {"id": "2", "year": "1300", "source": "t.csv", "row": 2}),
    }


def test_a_long_csv_field(tmp_path):
    write(tmp_path, {"t.csv": "text\n" + "x" * 300_000 + "\n"})
    assert len(read(tmp_path)[0]["t.csv#1"][0]) == 300_000


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("text,n\na,1,2\nb,2\n", "row 1: has 3 values for 2 columns"),
        ("name,n\na,1\n", "no text column (`text`, `content`, `page_content`, `body`, "),
        ('text\n"open', "row 1: is not valid CSV: unexpected end of data"),
        (
            b"text\n\xff\xfe\n",
            "row 1: `text` is not valid UTF-8 (byte 0xFF after 0 characters): ",
        ),
    ],
)
def test_bad_csv(tmp_path, content, error):
    write(tmp_path, {"t.csv": content, "u.txt": "next file"})
    records, errors = read(tmp_path)
    assert len(errors) == 1
    assert str(tmp_path / "t.csv") in errors[0]
    assert error in errors[0]
    assert "u.txt" in records


def test_empty_files_have_no_rows(tmp_path):
    write(tmp_path, {"t.csv": "", "r.jsonl": "", "e.txt": ""})
    assert read(tmp_path) == ({}, [])


def test_parquet_reads_in_row_batches(tmp_path):
    rows = 2000
    table = pa.table({"text": [f"text {n}" for n in range(rows)], "n": list(range(rows))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=700)
    records, errors = read(tmp_path)
    assert errors == []
    assert len(records) == rows
    assert records["t.parquet#2000"] == (
        "text 1999",
        {"n": 1999, "source": "t.parquet", "row": 2000},
    )


def test_a_large_row_group_is_not_read_at_once(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [os.urandom(500).hex() for _ in range(20_000)]})
    pq.write_table(table, path, row_group_size=20_000, use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read_paths(path))
    assert path.stat().st_size > 10_000_000
    assert most < 8_000_000


def test_parquet_values_become_json(tmp_path):
    table = pa.table(
        {
            "text": ["a"],
            "nan": [float("nan")],
            "when": pa.array([0], pa.timestamp("ms", tz="UTC")),
            "raw": [b"\x00\xff"],
            "list": [[1.5, None]],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path)[0]["t.parquet#1"][1] == {
        "nan": None,
        "when": "1970-01-01T00:00:00+00:00",
        "raw": "AP8=",
        "list": [1.5, None],
        "source": "t.parquet",
        "row": 1,
    }


def test_a_field_metadata_is_the_metadata_and_other_nested_values_stay_nested(tmp_path):
    row = {"text": "a", "year": 1, "metadata": {"year": 2, "by": "Ada"}, "at": {"lat": 60.4}}
    wanted = {"year": 2, "by": "Ada", "at": {"lat": 60.4}, "row": 1}
    write(tmp_path, {"a.jsonl": orjson.dumps(row).decode()})
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    records, _ = read(tmp_path)
    for name in ("a.jsonl", "b.parquet"):
        assert records[f"{name}#1"] == ("a", {**wanted, "source": name})
    del wanted["row"]
    assert to_record(row, 0).metadata == wanted  # as of a mapping that no file held
    text = {"text": "a", "metadata": "no mapping"}
    assert to_record(text, 0).metadata == {"metadata": "no mapping"}


def test_corrupt_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 5000}), tmp_path / "good.parquet")
    data = (tmp_path / "good.parquet").read_bytes()
    write(
        tmp_path,
        {"cut.parquet": data[:-20], "none.parquet": b"", "text.parquet": "no Parquet at all"},
    )
    records, errors = read(tmp_path)
    assert len(records) == 5000
    assert [error.split(": ")[0] for error in errors] == [
        str(tmp_path / name) for name in ("cut.parquet", "none.parquet", "text.parquet")
    ]
    assert all("cannot be read as Parquet: " in error for error in errors)
    assert all("\n" not in error for error in errors)


def damaged_parquet(path, *, damage, **options):
    digits = random.Random(0)
    table = pa.table({"text": [digits.randbytes(40).hex() for _ in range(4000)]})
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False, **options)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(damage)] = damage
    path.write_bytes(data)


def test_parquet_that_is_damaged_in_the_middle(tmp_path):
    path = tmp_path / "t.parquet"
    damaged_parquet(path, damage=b"\xff" * 2000, compression="none")
    records, errors = read(tmp_path)
    assert 0 < len(records) < 4000
    assert len(errors) == 1
    assert f"{path}: cannot be read as Parquet after row {len(records)}" in errors[0]


def test_parquet_whose_damage_only_its_checksums_show(tmp_path):
    path = tmp_path / "t.parquet"
    damaged_parquet(path, damage=b"0", compression="none", write_page_checksum=True)
    records, errors = read(tmp_path)
    assert 0 < len(records) < 4000
    assert len(errors) == 1
    assert f"{path}: cannot be read as Parquet after row {len(records)}" in errors[0]
    assert "CRC checksum verification failed" in errors[0]


def test_a_column_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "n": [1]}), tmp_path / "t.parquet")
    assert "the columns are `name`, `n`: choose one with `text_field`" in read(tmp_path)[1][0]
    assert (
        "no column `abc` for the text; the columns are `name`, `n`"
        in read(tmp_path, text_field="abc")[1][0]
    )
    assert (
        "no column `abc` for the ids; the columns are `name`, `n`"
        in read(tmp_path, text_field="name", id_field="abc")[1][0]
    )
    assert read(tmp_path, text_field="name")[0]["t.parquet#1"][0] == "a"


def test_files_that_cannot_be_read(tmp_path):
    write(tmp_path, {"a.txt": b"caf\xe9", "c.txt": "fine", "d.bin": "x"})
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    records, errors = read(tmp_path)
    assert list(records) == ["c.txt"]
    assert errors == [
        f"{tmp_path / 'a.txt'}: is not valid UTF-8 (unexpected end of data at byte 3): "
        "convert the file, or pass its encoding, such as --encoding cp1252",
        f"{tmp_path / 'b.txt'}: cannot be opened: No such file or directory",
    ]
    assert read(tmp_path / "d.bin")[1][0].startswith(
        f"{tmp_path / 'd.bin'}: unknown file type '.bin'; supported are .txt, .rst, .md"
    )
    assert "cannot be opened" in read(tmp_path / "nowhere.txt")[1][0]


def test_utf_16_is_named(tmp_path):
    """Excel writes it as "Unicode text"."""
    csv, jsonl = "id,text\n1,Mühle\n", '{"id": 1, "text": "Mühle"}\n'
    for name, text in {"a.txt": "Mühle", "b.csv": csv, "c.jsonl": jsonl}.items():
        (tmp_path / name).write_text(text, "utf-16")
    records, errors = read(tmp_path)
    assert not records
    converted = "is UTF-16, according to its byte order mark: convert it to UTF-8"
    assert errors == [
        f"{tmp_path / 'a.txt'}: is not valid UTF-8 (invalid start byte at byte 0): "
        "convert the file, or pass its encoding, such as --encoding utf-16",
        f"{tmp_path / 'b.csv'}: {converted}, or pass --encoding utf-16",
        f"{tmp_path / 'c.jsonl'}: {converted}",
    ]
    records, errors = read(tmp_path, options=ReadOptions(encoding="utf-16"))
    assert sorted(text for text, *_ in records.values()) == ["Mühle", "Mühle"]
    assert errors == [f"{tmp_path / 'c.jsonl'}: {converted}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path):
    write(tmp_path, {"a/b.txt": "secret", "c.txt": "fine"})
    (tmp_path / "a").chmod(0)
    records, errors = read(tmp_path)
    (tmp_path / "a").chmod(0o700)
    assert list(records) == ["c.txt"]
    assert errors == [f"{tmp_path / 'a'}: cannot be opened: Permission denied"]


def test_two_roots_with_the_same_key(tmp_path):
    write(tmp_path, {"a/x.txt": "one", "b/x.txt": "two", "b/y.txt": "three"})
    records, errors = read(tmp_path / "a", tmp_path / "b")
    assert {key: text for key, (text, _) in records.items()} == {"x.txt": "one", "y.txt": "three"}
    assert "has the same key, `x.txt`, as" in errors[0]
    again, errors = read(tmp_path / "a", tmp_path / "a")
    assert (list(again), errors) == (["x.txt"], [])


def test_a_single_path_may_be_a_string(tmp_path):
    write(tmp_path, {"a.txt": "one"})
    assert [record.key for record in read_paths(str(tmp_path))] == ["a.txt"]
    assert [record.key for record in read_paths(Path(tmp_path))] == ["a.txt"]

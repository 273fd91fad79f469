"""An error in a CSV file stays in its row."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernstone.tables.csv_rows import csv_rows
from quernstone_qdrant import Record, read_paths
from quernstone_qdrant.sources import ReadOptions

ROWS = 199


def write_rows(path, **bad):
    """Write a table of 199 rows, with other lines for some of them."""
    lines = [bad.get(f"row{n}", f"{n},text {n},x").encode() if not isinstance(
        bad.get(f"row{n}"), bytes) else bad[f"row{n}"] for n in range(1, ROWS + 1)]  # fmt: skip
    path.write_bytes(b"\n".join([b"id,text,more", *lines]) + b"\n")


def read(path, **options):
    found = list(read_paths(path, options=ReadOptions(**options)))
    records = [item for item in found if isinstance(item, Record)]
    return records, [item for item in found if not isinstance(item, Record)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"50,caf\xe9,x", "`text` is not valid UTF-8 (byte 0xE9 after 3 characters)"),
        (b"50,text,\xff\xfe", "`more` is not valid UTF-8 (byte 0xFF after 0 characters)"),
        (b'50,"stray,x', "is not valid CSV"),
        (b'50,"closed"again,x', "is not valid CSV"),
        (b'50,"stray ""twice,x', "is not valid CSV"),
        (b"50,short", "has 2 values for 3 columns"),
        (b'50,"two\nlines",x,y', "has 4 values for 3 columns"),
        (b"\0,caf\xe9\0,x", "`text` is not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("later", ["150,good,x", '150,"a ""quoted"" one\nover lines",x'])
def test_exactly_the_bad_row_is_left_out(tmp_path, line, reason, later):
    path = tmp_path / "t.csv"
    write_rows(path, row50=line, row150=later)
    records, (error,) = read(path)
    assert (error.row, error.path) == (50, str(path))
    assert reason in error.reason
    assert [record.metadata["row"] for record in records] == [
        n for n in range(1, ROWS + 1) if n != 50
    ]


def test_a_stray_quote_that_a_later_quote_closes(tmp_path):
    path = tmp_path / "t.csv"
    write_rows(path, row50='50,"stray,x', row60='60,a 5" pipe",x')
    records, errors = read(path)
    assert [error.row for error in errors] == [50]
    assert len(records) == ROWS - 1


def test_an_encoding_and_a_delimiter(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("id;text;größe\n1;Müller, Café;2\n".encode("cp1252"))
    (_, (error,)) = read(path)
    reason = "its header is not readable: `gr??e` is not valid UTF-8 (byte 0xF6"
    assert reason in str(error)
    ((record,), errors) = read(path, encoding="cp1252")
    assert (record.text, record.metadata["größe"], errors) == ("Müller, Café", "2", [])
    tabs = tmp_path / "t.tsv"
    tabs.write_text("text\ta,b\nc,d;e\tf\n")
    ((record,), _) = read(tabs)
    assert (record.text, record.metadata["a,b"]) == ("c,d;e", "f")
    assert "Müller" in read(path, encoding="cp1252", delimiter=";")[0][0].text
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes('{"text": "é"}'.encode("cp1252"))
        (_, (error,)) = read(tmp_path / name)
        assert "is not valid" in str(error)
        ((record,), _) = read(tmp_path / name, encoding="cp1252")
        assert "é" in record.text


VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


@given(table=st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=8))
def test_good_files_are_read_as_pythons_own_parser_does(table):
    file = io.StringIO()
    csv.writer(file).writerows(table)
    lines = file.getvalue().splitlines(keepends=True)
    assert list(csv_rows(iter(lines))) == list(csv.reader(lines, strict=True))

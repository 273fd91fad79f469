"""Tables of every format, compression and origin give the same rows."""

import gzip
import io
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone.errors import ConfigError, SourceError
from quernstone.tables import TableOptions, TableReader, TextColumns
from quernstone.tables.csv_rows import sniffed_delimiter

FIELDS = [{"title": "Mill", "n": "1"}, {"title": "Rain; snow", "n": "2"}]


def content_of(layout, tmp_path):
    if layout == "parquet":
        pq.write_table(pa.Table.from_pylist(FIELDS), tmp_path / "made")
        return (tmp_path / "made").read_bytes()
    if layout == "csv":
        return b"title,n\nMill,1\nRain; snow,2\n"
    return b'{"title": "Mill", "n": "1"}\n{"title": "Rain; snow", "n": "2"}\n'


def compressed(content, suffix):
    if suffix == ".zst":  # in two frames, as `cat a.zst b.zst` has
        half = len(content) // 2
        return b"".join(
            pa.compress(part, codec="zstd", asbytes=True)
            for part in (content[:half], content[half:])
        )
    return gzip.compress(content) if suffix == ".gz" else content


def rows(path, layout=None, **options):
    reader = TableReader(path=path, name=str(path), layout=layout, options=TableOptions(**options))
    return [row.fields if not isinstance(row, SourceError) else row for row in reader.rows()]


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("layout", ["jsonl", "csv", "parquet"])
def test_every_format_from_every_place(tmp_path, monkeypatch, layout, suffix, piped):
    content = compressed(content_of(layout, tmp_path), suffix)
    path = tmp_path / f"table.{layout}{suffix}"
    if piped:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        path = type(path)("-")
    else:
        path.write_bytes(content)
    assert rows(path, "csv" if piped and layout == "csv" else None) == FIELDS


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(
        compressed(b"title\n" + b"".join(b"%d\n" % n for n in range(9999)), suffix)[:-9]
    )
    with pytest.raises((SourceError, OSError)):
        rows(path)


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["a,b\n", "1,2\n"], ","),
        (["id;name, first;text\n", "1;Ann, B;x\n", "2;Bo;y, z\n"], ";"),
        (["a\tb,c\td\n", "1\t2\t3\n"], "\t"),
        (["a|b\n", "1|2\n"], "|"),
        (["text\n", "a, b\n", "c; d\n"], ","),
        (['"a;b",c\n', '"1;2",3\n'], ","),
    ],
    ids=["comma", "semicolon", "tab", "bar", "one column", "quoted"],
)
def test_the_delimiter_is_sniffed(lines, delimiter):
    assert sniffed_delimiter(lines) == delimiter


ROW = {"title": " Quern ", "about": "A hand mill.", "year": 1200, "none": None, "tags": ["a"]}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"text_field": "about"}, "A hand mill."),
        ({"text_field": ["title", "none", "year"]}, "title: Quern\nyear: 1200"),
        ({"text_template": "{title} ({year}){none} {{x}}"}, "Quern (1200) {x}"),
        ({}, " Quern "),
    ],
    ids=["one", "joined", "template", "known"],
)
def test_the_text_of_a_row(options, text):
    assert TextColumns(TableOptions(**options)).text(ROW) == text


@pytest.mark.parametrize(
    ("options", "row", "reason"),
    [
        ({"text_field": ["title", "tags"]}, ROW, "`tags` is list; a joined text takes strings"),
        ({"text_field": ["none", "title"]}, {"none": None}, "`none`, `title` are all empty"),
        ({"text_field": ["x", "y"]}, ROW, "no column `x`, `y` for the text"),
        ({"text_field": "year"}, ROW, "`year` is int, not a string"),
    ],
    ids=["list", "empty", "missing", "number"],
)
def test_a_row_without_a_text(options, row, reason):
    with pytest.raises(ValueError, match=reason):
        TextColumns(TableOptions(**options)).text(row)


def test_the_columns_stay_those_of_the_first_row():
    texts = TextColumns(TableOptions())
    assert texts.text({"text": "a", "title": "b"}) == "a"
    with pytest.raises(ValueError, match="no field `text`; the fields are `title`"):
        texts.text({"title": "b"})


def test_options_that_contradict_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        TableOptions(text_field="a", text_template="{b}")
    with pytest.raises(ConfigError, match="must name columns in braces"):
        TableOptions(text_template="{{a}}")

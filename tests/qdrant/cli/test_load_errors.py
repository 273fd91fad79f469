"""What `quern load` says about bad rows and files, and when."""

import orjson
import pytest


def test_a_thousand_bad_rows_print_ten_and_a_count(quern, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n' + '{"text": 1}\n' * 1000)
    done = quern("load", path, "-c", "docs", "--skip-errors")
    lines = done.stderr.splitlines()
    assert (done.exit_code, len(lines)) == (0, 11)
    assert lines[9].startswith(f"quern: left out: {path}, row 11: ")
    assert lines[10] == (
        "quern: left out: 990 more, 1,000 in total; --dead-letter FILE lists all of them"
    )
    letters = tmp_path / "letters.jsonl"
    done = quern("load", path, "-c", "docs", "--dead-letter", letters)
    assert done.stderr.splitlines()[-1].endswith(f"{letters} lists all of them")
    assert len(letters.read_bytes().splitlines()) == 1000


def test_the_remedy_is_named(quern, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{"text": 1}\n')
    stopped = quern("load", path, "-c", "docs")
    assert stopped.exit_code == 1
    assert f"{path}, row 2: `text` is int, not a string (--skip-errors leaves" in stopped.stderr


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"name": "x"}\n', (), "no text column"),
        ('{"text": "x"}\n', ("--text-field", "nope"), "no column `nope` for the text"),
        ('{"text": "x"}\n', ("--id-field", "nope"), "the id in `nope` is None"),
        ("{\n", (), "is not valid JSON"),
    ],
)
def test_the_first_row_is_read_before_anything_is_embedded(
    quern, tmp_path, content, options, message
):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("good")
    (folder / "b.jsonl").write_text("\n")
    (folder / "z.jsonl").write_text(content)
    for paths in ([folder], [folder / "a.txt", folder / "z.jsonl"]):
        done = quern("load", *paths, "-c", "docs", *options)
        assert done.exit_code == 1
        assert f"{folder / 'z.jsonl'}, row 1: {message}" in done.stderr
        assert not (tmp_path / "work" / "qdrant-data").exists()


def test_files_that_cannot_be_written_are_reported_first(quern, docs, tmp_path):
    for option in ("--report", "--dead-letter"):
        for path in (tmp_path / "no" / "such.json", tmp_path):
            done = quern("load", docs, "-c", "docs", option, path)
            assert done.exit_code == 2
            assert f"{option} {path} cannot be written: " in done.stderr
            assert not (tmp_path / "work" / "qdrant-data").exists()
    report = tmp_path / "report.json"
    report.write_text("old")
    quern("load", docs, "-c", "docs", "--report", report)
    assert orjson.loads(report.read_bytes())["seen"] == 4

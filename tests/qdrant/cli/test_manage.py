"""`quern collection list`, `delete`, `sources` and `info`."""

import orjson
import pytest

PLACES = [("--path", "here"), ("--edge", "here")]
places = pytest.mark.parametrize("place", PLACES, ids=["path", "edge"])


@places
def test_list_sources_and_delete(quern, docs, tmp_path, place):
    for name in ("first", "second"):
        assert quern("load", docs, "-c", name, *place).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "long.txt").write_text("Mills grind grain. " * 100)
    assert quern("load", other, "-c", "second", *place).exit_code == 0

    listed = quern("collection", "list", *place)
    assert listed.exit_code == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["first: 4 points", "second: 6 points"]
    rows = orjson.loads(quern("collection", "list", *place, "--json").stdout)
    assert [(row["collection"], row["points"]) for row in rows] == [("first", 4), ("second", 6)]
    assert rows[0]["model"]

    shown = quern("collection", "sources", "-c", "second", *place)
    assert shown.stdout == "docs: 4 documents, 4 points\nother: 1 documents, 2 points\n"
    rows = orjson.loads(quern("collection", "sources", "-c", "second", *place, "--json").stdout)
    assert rows[1] == {"source": "other", "documents": 1, "points": 2}

    described = quern("collection", "info", "-c", "second", *place)
    assert " MB on disk" in described.stdout.splitlines()[0]
    size = orjson.loads(quern("collection", "info", "-c", "second", *place, "--json").stdout)
    assert size["bytes"] > 6 * 1000

    refused = quern("collection", "delete", "-c", "first", *place)  # standard input is empty
    assert refused.exit_code == 1
    assert "Delete the collection 'first' in here with 4 points?" in refused.stdout
    deleted = quern("collection", "delete", "-c", "first", "--yes", *place)
    assert deleted.stdout == "deleted the collection 'first' in here\n"
    missing = quern("collection", "delete", "-c", "first", "--yes", *place)
    assert missing.exit_code == 1
    assert "second" in missing.stderr
    assert quern("collection", "list", *place).stdout.startswith("second: 6 points")


@places
def test_a_folder_of_the_other_kind_is_recognized(quern, docs, place):
    assert quern("load", docs, "-c", "docs", *place).exit_code == 0
    other = "--edge" if place[0] == "--path" else "--path"
    for command in (
        ("load", docs, "-c", "docs"),
        ("search", "mills", "-c", "docs"),
        ("collection", "info", "-c", "docs"),
        ("collection", "list"),
    ):
        wrong = quern(*command, other, "here")
        assert wrong.exit_code == 2
        assert f"use {place[0]}, or name another folder" in wrong.stderr
        assert "'here' belongs to" in wrong.stderr


def test_a_large_load_into_the_embedded_client_says_what_to_use(quern, docs, tmp_path, monkeypatch):
    monkeypatch.setattr("quernstone_qdrant.cli.load_options._EMBEDDED_RECORDS", 3)
    warned = quern("load", docs, "-c", "docs")
    assert warned.exit_code == 0
    assert "quern: these are 4 records; above 3, the embedded client is slow" in warned.stderr
    assert "--edge FOLDER" in warned.stderr
    assert quern("load", docs, "-c", "docs", "--edge", tmp_path / "edge").stderr == ""

"""What cannot be loaded goes to a file, and comes back from it as it was."""

import orjson
import pytest

from quernstone_qdrant import QdrantLoader, Record, RecordError, SourceError, read_paths

GOOD = {"id": "good", "text": "a good one"}
POISON = Record("bad.md", "# Bad\n\npoison", {"source": "bad.md", "n": 1}, "markdown", "folder")


def letters(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_each_failure_is_a_line_with_its_reason(client, embedder, tmp_path):
    path = tmp_path / "left-out.jsonl"
    loader = QdrantLoader(client, "docs", embedder, dead_letter=path)
    report = loader.load([GOOD, POISON, {"name": "no text"}, SourceError("x.csv", "not CSV", 3)])
    assert (report.embedded, report.failed) == (1, 3)
    no_text, unreadable, poison = letters(path)  # what is read fails first
    assert poison["quernstone_dead_letter"] == (
        "record 'bad.md': chunk 0 cannot be embedded: no poison"
    )
    assert poison["error"] == "RecordError"
    assert no_text["value"] == {"name": "no text"}
    assert "it has no text field" in no_text["quernstone_dead_letter"]
    assert (unreadable["path"], unreadable["row"]) == ("x.csv", 3)

    back = list(read_paths(path))
    assert back[2] == POISON
    assert str(back[0]).endswith(
        "row 1: no text was found in it: " + no_text["quernstone_dead_letter"]
    )
    assert str(back[1]) == "x.csv, row 3: not CSV"


def test_dead_letters_are_loaded_again_into_the_same_place(client, embedder, tmp_path, stored):
    path = tmp_path / "left-out.jsonl"
    loader = QdrantLoader(client, "docs", embedder, dead_letter=path)
    loader.load([GOOD, POISON])
    real = embedder.embed_documents
    embedder.embed_documents = lambda texts: real([t.replace("poison", "cured") for t in texts])
    report = loader.load(read_paths(path))  # reads the file that it replaces in the end
    assert (report.embedded, report.failed) == (1, 0)
    assert path.read_bytes() == b""
    direct = QdrantLoader(client, "direct", embedder)
    direct.load([GOOD, POISON])
    payloads = [
        sorted(payload["doc_id"] for payload, _ in stored(client, name).values())
        for name in ("docs", "direct")
    ]
    assert payloads == [["bad.md", "good"], ["bad.md", "good"]]
    assert loader.load([POISON]).skipped == 1


def test_without_the_file_the_load_stops_and_counts(client, embedder):
    loader = QdrantLoader(client, "docs", embedder)
    with pytest.raises(RecordError):
        loader.load([GOOD, POISON])
    assert (loader.report.embedded, loader.report.failed) == (1, 1)


def test_a_damaged_letter_is_an_error(tmp_path):
    path = tmp_path / "left-out.jsonl"
    path.write_text('{"quernstone_dead_letter": "why", "record": {"nonsense": 1}}\n')
    (error,) = read_paths(path)
    assert "row 1: the dead letter is damaged" in str(error)

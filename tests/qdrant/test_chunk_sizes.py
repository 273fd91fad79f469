"""A collection remembers the sizes of its chunks, from Python and from the shell."""

import pytest
from qdrant_client import QdrantClient

from quernstone import Embedder
from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.chunk_sizes import chosen_sizes

RECORDS = [{"id": "a", "text": "Grain is ground by hand. It rains in Bergen."}]


def test_later_loads_use_the_sizes_of_the_first(client, embedder):
    sizes = {"chunk_size": 30, "chunk_overlap": 0}
    assert QdrantLoader(client, "docs", embedder, **sizes).load(RECORDS).embedded == 2
    assert QdrantLoader(client, "docs", embedder).load(RECORDS).skipped == 2
    assert QdrantLoader(client, "docs", embedder, **sizes).load(RECORDS).skipped == 2
    for other, both in (
        ({"chunk_size": 40}, "with `chunk_size=30`, but this load requests `chunk_size=40`"),
        ({"chunk_size": None}, "with `chunk_size=30`, but this load requests whole texts"),
        ({"chunk_overlap": 3}, "with `chunk_overlap=0`, but this load requests `chunk_overlap=3`"),
    ):
        with pytest.raises(ConfigError, match=both):
            QdrantLoader(client, "docs", embedder, **other)


def test_sizes_that_were_not_recorded_may_change_once(client, embedder):
    assert QdrantLoader(client, "docs", embedder).load(RECORDS).embedded == 1
    report = QdrantLoader(client, "docs", embedder, chunk_size=30).load(RECORDS)
    assert report.embedded == 2
    assert report.notes[0].startswith("the chunks of this collection now have at most 30 ")
    with pytest.raises(ConfigError):
        QdrantLoader(client, "docs", embedder, chunk_size=1200)


@pytest.mark.parametrize("size", [0, 30])
def test_python_knows_the_sizes_of_the_shell(tmp_path, monkeypatch, size):
    from typer.testing import CliRunner

    from quernstone.cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(RECORDS[0]["text"])
    command = ["load", "a.txt", "-c", "docs", "--model", "tiny", "--chunk-size", str(size)]
    assert CliRunner().invoke(app, command).exit_code == 0
    client = QdrantClient(path="qdrant-data")
    wrong = None if size else 30
    with pytest.raises(ConfigError, match=r"this load requests .*: leave it out"):
        QdrantLoader(client, "docs", Embedder("tiny"), chunk_size=wrong)
    report = QdrantLoader(client, "docs", Embedder("tiny")).load(RECORDS)
    client.close()
    assert report.chunks == (2 if size else 1)
    shown = CliRunner().invoke(app, [*command[:-1], "50"])
    assert shown.exit_code == 2
    before = f"--chunk-size {size}" if size else "whole texts"
    assert f"with {before}, but this load requests --chunk-size 50" in shown.stderr


@pytest.mark.parametrize(
    ("recorded", "given", "chosen"),
    [
        ({}, ("auto", None), (1200, None)),
        ({}, (None, None), (None, None)),
        ({"chunk_size": 0, "chunk_overlap": None}, ("auto", None), (None, None)),
        ({"chunk_size": 50, "chunk_overlap": None}, (50, 5), (50, None)),
        ({"chunk_size": 50, "chunk_overlap": 0}, ("auto", None), (50, 0)),
        ({"id_fields": {"": "id"}}, (40, 1), (40, 1)),
    ],
    ids=["default", "whole", "recorded whole", "a tenth", "no overlap", "other options"],
)
def test_sizes(recorded, given, chosen):
    assert chosen_sizes("docs", recorded, *given) == chosen

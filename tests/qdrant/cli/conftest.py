"""Commands on small documents, with small random models."""

import sys

import pytest
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from quernstone.cli import app
from quernstone.engines.remote import transport
from quernstone_qdrant.retry import Retry

MAIN = [sys.executable, "-c", "from quernstone.cli import main; main()"]


@pytest.fixture
def quern(monkeypatch, tmp_path, checkpoints):
    """Runs a command in this process and in an empty folder, with small random models."""
    for task, name in (("embedding", "QUERN_MODEL"), ("reranker", "QUERN_RERANK_MODEL")):
        model = checkpoints(f"{task}-0.6b", layers=1, width=16, small_vocabulary=True)
        monkeypatch.setenv(name, str(model))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments, stdin=None):
        arguments = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, arguments, input=stdin, prog_name="quern")

    return run


@pytest.fixture
def impatient(monkeypatch):
    """Lets every retry end soon."""
    start = Retry.__init__
    monkeypatch.setattr(Retry, "__init__", lambda self, _patience: start(self, 0.1))
    monkeypatch.setattr(transport, "_LONGEST_WAIT", 0.01)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("A quern is a hand mill.")
    (folder / "deep" / "b.md").write_text("# Bread\n\nBread is made of grain.")
    (folder / "c.jsonl").write_text('{"text": "Rain falls."}\n{"text": "Snow falls."}\n')
    return folder


def texts(path="qdrant-data", collection="docs"):
    """Return the texts of an embedded collection, in order."""
    client = QdrantClient(path=path)
    points, _ = client.scroll(collection, limit=1000)
    client.close()
    return sorted(point.payload["page_content"] for point in points)

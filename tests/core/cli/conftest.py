import subprocess
import sys

import pytest
from typer.testing import CliRunner

from quernstone.cli import app


@pytest.fixture(scope="session")
def embedding_model(checkpoints):
    return str(checkpoints("embedding-0.6b", layers=1, width=16, small_vocabulary=True))


@pytest.fixture(scope="session")
def reranking_model(checkpoints):
    return str(checkpoints("reranker-0.6b", layers=1, width=16, small_vocabulary=True))


@pytest.fixture
def models(monkeypatch, embedding_model, reranking_model):
    """Makes the small random models the default ones, for subprocesses, too."""
    monkeypatch.setenv("QUERN_MODEL", embedding_model)
    monkeypatch.setenv("QUERN_RERANK_MODEL", reranking_model)


@pytest.fixture
def quern(models):
    """Runs a command in this process."""

    def run(*arguments, stdin=None):
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="quern")

    return run


@pytest.fixture
def quern_process(models):
    """Runs a command for real."""

    def run(*arguments, stdin=b"", **options):
        command = [sys.executable, "-c", "from quernstone.cli import main; main()"]
        return subprocess.run(
            [*command, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            **options,
        )

    return run

"""`quern doctor` as people and scripts run it."""

import json

import pytest
from tests.core.doctor.conftest import TINY
from tests.support.model_server import ModelServer
from typer.testing import CliRunner

from quernstone.cli import app
from quernstone.doctor import Recognised, Recognized, recognise, recognize


@pytest.fixture
def quern(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return CliRunner().invoke(app, ["doctor", *map(str, arguments)], prog_name="quern")

    return run


def test_people_get_a_table_and_a_summary(quern):
    done = quern("tiny", "--dtype", "float32")
    assert done.exit_code == 0, done.output
    assert "tiny (embed)" in done.stdout
    assert "ok        published scores" in " ".join(done.stdout.split("\n"))
    assert done.stdout.splitlines()[-1] == "healthy: 14 ok, 1 skipped"
    assert "-> pass `--reference` with a folder" in done.stdout


def test_scripts_get_json(quern, monkeypatch):
    monkeypatch.setenv("QUERN_RERANK_MODEL", "tiny")
    done = quern("--task", "rerank", "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["target"], report["task"], report["healthy"]) == ("tiny", "rerank", True)
    assert report["environment"]["template"] == "card"
    assert {"ok", "skipped"} == {check["verdict"] for check in report["checks"]}


def test_a_folder_that_is_no_model_exits_with_1(quern, tmp_path):
    done = quern(tmp_path)
    assert done.exit_code == 1
    assert "holds no `config.json`" in done.stdout
    assert done.stdout.splitlines()[-1] == "broken: 1 failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tiny", "--task", "classify"],
        ["tiny", "--engine", "other"],
        ["tiny", "--dialect", "vllm"],
        ["tiny", "--model", "m"],
        ["http://localhost:1?key=x"],
        ["tiny", "--no-such-option"],
    ],
)
def test_wrong_usage_exits_with_2(quern, arguments):
    assert quern(*arguments).exit_code == 2


def test_an_address_is_enough(quern):
    with ModelServer(TINY / "embedding", "embed", name="tiny", says="tei") as server:
        assert recognize(server.url) == Recognized("tei", "tiny")
        done = quern(server.url)
    assert done.exit_code == 0, done.output
    assert f"{server.url} (embed)" in done.stdout
    assert "the server reports pooling `last_token`" in done.stdout


def test_a_reranking_server_that_is_broken_exits_with_1(quern):
    with ModelServer(
        TINY / "reranker", "rerank", fault="renumbered", name="my-reranker", says="vllm"
    ) as server:
        assert recognize(server.url) == Recognized("vllm", "my-reranker")
        done = quern(server.url, "--json")
    assert done.exit_code == 1, done.output
    report = json.loads(done.stdout)
    assert report["task"] == "rerank"
    assert [c["name"] for c in report["checks"] if c["verdict"] == "fail"] == ["alone or together"]


def test_the_former_spellings_are_aliases():
    assert (recognise, Recognised) == (recognize, Recognized)


def test_nobody_there(quern, monkeypatch):
    assert recognize("http://127.0.0.1:9") == Recognized("openai", "")
    done = quern("http://127.0.0.1:9", "--model", "m")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "broken: 1 failed"

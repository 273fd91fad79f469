"""The commands with a model on a server."""

import json

import pytest
from tests.support.embedding_server import MODEL, score
from typer.testing import CliRunner

from quernstone.cli import app
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.engines.remote.options import KEY_VARIABLE

KEY = "sk-Cl1secret"


@pytest.fixture
def quern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=None, exit_code=0):
        done = CliRunner().invoke(app, list(map(str, arguments)), input=stdin, prog_name="quern")
        assert done.exit_code == exit_code, done.output
        assert KEY not in done.output
        return done

    return run


def rows(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_embed_with_a_key_of_the_environment(quern, serve, monkeypatch):
    stub = serve("vllm", key=KEY)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server = ["--endpoint", stub.url, "--dialect", "vllm", "--model", MODEL]
    found = rows(quern("embed", "-", *server, stdin="a\nb\n"))
    assert [row["text"] for row in found] == ["a", "b"]
    assert [len(row["embedding"]) for row in found] == [8, 8]
    monkeypatch.setenv(KEY_VARIABLE, "another")
    done = quern("embed", "-", *server, stdin="a\n", exit_code=1)
    assert "401 Unauthorized" in done.stderr


def test_the_default_dialect_is_what_most_servers_speak(quern, serve):
    stub = serve("openai")
    quern("embed", "-", "--endpoint", stub.url, "--model", MODEL, stdin="a\n")
    assert stub.received[0].path == "/v1/embeddings"


def test_rerank(quern, serve):
    stub = serve("vllm")
    documents = ["x", "y", "z"]
    server = ["--endpoint", stub.url, "--dialect", "vllm", "--rendered-by", "server"]
    request = json.dumps({"query": "q", "documents": documents})
    [row] = rows(quern("rerank", "-", *server, "--model", MODEL, stdin=request))
    wanted = {n: score(f"{DEFAULT_INSTRUCTION}|q", text) for n, text in enumerate(documents)}
    found = {result["index"]: result["score"] for result in row["results"]}
    assert found == pytest.approx(wanted)
    assert list(found) == sorted(wanted, key=lambda n: -wanted[n])


def test_template_still_says_who_renders(quern, serve):
    stub = serve("jina")
    server = ["--endpoint", stub.url, "--dialect", "jina", "--model", MODEL]
    request = json.dumps({"query": "q", "documents": ["x"]})
    old = quern("rerank", "-", *server, "--template", "server", stdin=request)
    new = quern("rerank", "-", *server, "--rendered-by", "server", stdin=request)
    assert old.stdout == new.stdout


def test_load_and_search_with_both_models_on_servers(quern, serve, tmp_path):
    embeds, reranks = serve("tei"), serve("jina")
    (tmp_path / "notes.txt").write_text("A quern is a hand mill.")
    server = ["--endpoint", embeds.url, "--dialect", "tei", "--model", MODEL]
    quern("load", "notes.txt", "-c", "notes", *server)
    command = ["search", "what is a quern?", "-c", "notes", "--json", *server]
    [hit] = json.loads(quern(*command, "--no-rerank").stdout)
    assert hit["text"] == "A quern is a hand mill."
    assert hit["rerank_score"] is None
    second = [
        "--rerank-endpoint",
        reranks.url,
        "--rerank-dialect",
        "jina",
        "--rendered-by",
        "server",
    ]
    [hit] = json.loads(quern(*command, *second, "--rerank-model", MODEL).stdout)
    assert hit["rerank_score"] == pytest.approx(score("what is a quern?", hit["text"]))


def test_search_with_one_model_here_and_one_on_a_server(quern, serve, tmp_path):
    stub = serve("jina")
    (tmp_path / "notes.txt").write_text("A quern is a hand mill.")
    quern("load", "notes.txt", "-c", "notes", "--model", "tiny", "--device", "cpu")
    second = ["--rerank-endpoint", stub.url, "--rerank-dialect", "jina", "--template", "server"]
    command = ["search", "quern?", "-c", "notes", "--json", "--device", "cpu"]
    [hit] = json.loads(quern(*command, *second, "--rerank-model", MODEL).stdout)
    assert hit["rerank_score"] == pytest.approx(score("quern?", hit["text"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "remote"], "the address of the server is missing: pass --endpoint URL"),
        (["--dialect", "tei"], "the address of the server is missing: pass --endpoint URL"),
        (["--endpoint", "http://h", "--engine", "torch"], "--engine torch runs it here"),
        (["--endpoint", "h:80"], "not the address of a server"),
        (["--endpoint", f"https://u:{KEY}@h/?x=1"], "has a query or a fragment"),
        (["--endpoint", "http://h", "--dialect", "grpc"], "unknown dialect 'grpc'"),
        (["--endpoint", "http://h", "--device", "cuda"], "the server decides it"),
    ],
)
def test_wrong_usage(quern, arguments, message):
    done = quern("embed", "-", *arguments, stdin="a\n", exit_code=2)
    assert message in done.stderr


def test_reranking_needs_to_know_who_renders(quern):
    server = ["--endpoint", "http://h", "--dialect", "vllm"]
    done = quern("rerank", "-", "-q", "q", *server, stdin="d\n", exit_code=2)
    assert "say who renders the prompt" in done.stderr

"""`quern collection index` and `info`, and settings from the shell."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from tests.support.qdrant_server import running_server
from typer.testing import CliRunner

from quernstone.cli import app
from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.cli.collections import StorageOptions, assigned
from quernstone_qdrant.targets.deferred_indexing import DEFERRED_KEY

RECORDS = [{"id": f"d{n}", "text": f"stone mill {n}"} for n in range(20)]


@pytest.fixture
def server():
    with running_server() as server:
        yield server


@pytest.fixture
def quern(server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--url", server.url])

    return run


@pytest.fixture
def crashed(server, embedder):
    """A collection whose last load deferred its index and was killed on another machine."""
    client = server.client()
    QdrantLoader(client, "docs", embedder, settings={"m": 24}).load(RECORDS)
    saved = {"m": 24, "vectors": {}, "threshold": 10000, "since": time.time(), "how": "m0"}
    client.update_collection(
        "docs",
        metadata={f"{DEFERRED_KEY}:1": {**saved, "renewed": time.time(), "machine": "other"}},
        hnsw_config={"m": 0},
    )
    return server.collections["docs"]


def test_deferred_indexing_is_shown_and_ended(quern, crashed):
    for command in ("info", "index"):
        shown = quern("collection", command, "-c", "docs").stdout
        assert "indexing is deferred by a load that began at " in shown
        assert "`quern collection index --restore` resumes indexing" in shown
    verified = quern("collection", "verify", "-c", "docs", "--re-embed", 0)
    assert "indexing is deferred by a load" in verified.stdout
    verified = orjson.loads(
        quern("collection", "verify", "-c", "docs", "--re-embed", 0, "--json").stdout
    )
    assert len(verified["deferred"]) == 1

    done = quern("collection", "index", "-c", "docs", "--restore", "--json")
    assert len(orjson.loads(done.stdout)["done"]) == 1
    assert crashed.config["hnsw_config"]["m"] == 24
    assert list(crashed.metadata) == ["quernstone"]
    again = quern("collection", "index", "-c", "docs", "--restore").stdout
    assert "nothing to restore: no load defers indexing" in again
    assert "deferred by" not in quern("collection", "info", "-c", "docs").stdout


def test_a_killed_load_is_shown_and_ended(quern, server):
    code = (
        "import os\n"
        "from tests.qdrant.conftest import WordEmbedder\n"
        "from qdrant_client import QdrantClient\n"
        "from quernstone_qdrant import QdrantLoader\n"
        f"client = QdrantClient(url={server.url!r}, check_compatibility=False)\n"
        "loader = QdrantLoader(client, 'docs', WordEmbedder(), defer_index='m0',\n"
        "                      progress=lambda report: os._exit(9))\n"
        "loader.load([{'id': 'mill', 'text': 'A quern is a hand mill.'}])\n"
    )
    root = Path(__file__).parents[3]  # where `tests` can be imported
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 9
    assert server.collections["docs"].config["hnsw_config"]["m"] == 0
    assert "indexing is deferred by a load" in quern("collection", "info", "-c", "docs").stdout
    done = quern("collection", "index", "-c", "docs", "--restore")
    assert "restored what was deferred by a load that began at " in done.stdout
    assert server.collections["docs"].config["hnsw_config"]["m"] == 16


def test_info_shows_the_graph_of_every_vector(quern, server, embedder):
    client = server.client()
    QdrantLoader(client, "docs", embedder, preset="mrl").load(RECORDS)
    client.update_collection("docs", optimizers_config={"indexing_threshold": 1})
    shown = quern("collection", "info", "-c", "docs").stdout
    assert "docs in " in shown
    assert "index: ready (green), 2 segments" in shown
    assert "vector dense: 0 of 20 in the graph" in shown
    assert "vector prefix: 20 of 20 in the graph" in shown
    assert "Qdrant 1.18.3" in shown
    assert "warning" not in shown
    report = orjson.loads(quern("collection", "info", "-c", "docs", "--json").stdout)["index"]
    assert report["graph"] == {"dense": 0, "prefix": 20}


@pytest.mark.parametrize(("version", "word"), [("1.17.2", "older"), ("1.19.0", "newer")])
def test_an_untested_version_is_warned_of(quern, server, embedder, version, word):
    server.version = version
    QdrantLoader(server.client(), "docs", embedder).load(RECORDS)
    shown = quern("collection", "info", "-c", "docs").stdout
    assert f"warning: the server ({version}) is {word} than the tested version (1.18.3)" in shown


def test_an_index_that_is_switched_off_is_warned_of(quern, server, embedder):
    client = server.client()
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    client.update_collection(
        "docs", hnsw_config={"m": 0}, optimizers_config={"indexing_threshold": 0}
    )
    shown = quern("collection", "info", "-c", "docs").stdout
    assert "warning: new points are not indexed: indexing_threshold is 0" in shown
    assert "warning: m is 0: there is no graph, and every search compares all points" in shown


def test_a_setting_is_changed_and_waited_for(quern, server, embedder):
    QdrantLoader(server.client(), "docs", embedder).load(RECORDS)
    server.status = [*["yellow"] * 6, "green"]
    arguments = ("--set", "m=24", "--set", "quantization=scalar", "--wait", 20)
    done = quern("collection", "index", "-c", "docs", *arguments)
    assert "changed m from 16 to 24" in done.stdout
    assert "changed quantization from None to 'scalar'" in done.stdout
    assert "indexing" in done.stderr
    assert server.collections["docs"].config["hnsw_config"]["m"] == 24
    refused = quern("collection", "index", "-c", "docs", "--set", "layout=plain")
    assert "created with layout universal, but layout plain is requested" in refused.stderr


def test_the_embedded_client_has_no_index(monkeypatch, tmp_path, embedder):
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path / "data"))
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    client.close()
    shown = CliRunner().invoke(
        app, ["collection", "index", "-c", "docs", "--path", str(tmp_path / "data"), "--restore"]
    )
    assert "nothing to restore" in shown.stdout
    assert "index: none, the embedded client (" in shown.stdout


def test_settings_from_the_shell():
    options = StorageOptions(
        indexes=["year=integer", "customer=tenant"],
        replication_factor=2,
        write_consistency=1,
        assignments=[
            "m=32", "graph_on_disk=true", "quantization=turbo4", "prefix=auto", "shards=none",
        ],
    )  # fmt: skip
    assert options.changes() == {
        "m": 32,
        "graph_on_disk": True,
        "quantization": "turbo4",
        "prefix": "auto",
        "shards": None,
        "indexes": {"year": "integer", "customer": "tenant"},
        "replication_factor": 2,
        "write_consistency": 1,
    }
    assert assigned(["prefix=64", "vector=dense"]) == {"prefix": 64, "vector": "dense"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m", "is not of the form NAME=VALUE; the names are layout, vector,"),
        ("colour=red", "is not of the form NAME=VALUE; the names are"),
        ("indexes=year", "is not of the form NAME=VALUE; the names are"),
        ("m=many", "--set m=many: the value must be a whole number"),
        ("on_disk=yes", "--set on_disk=yes: the value must be true or false"),
    ],
)
def test_assignments_that_are_not_settings(text, message):
    with pytest.raises(ConfigError, match=message):
        assigned([text])


@pytest.mark.parametrize(
    ("command", "options", "done"),
    [("index", ["--restore"], 1), ("index", ["--set", "m=12"], 1), ("info", [], 0)],
    ids=["restore", "set", "info"],
)
def test_any_one_request_may_fail(server, quern, embedder, monkeypatch, command, options, done):
    """Each request of a command fails once, in a run of its own."""
    monkeypatch.setattr("quernstone_qdrant.retry._backoff", lambda _: 0.0)
    client, number, count = server.client(), 0, itertools.count(1)
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    saved = {"m": 24, "vectors": {}, "threshold": 10000, "since": 1.0, "how": "m0"}
    record = client.get_collection("docs").config.metadata

    def fail(method, path):
        return "500" if (method, path) != ("GET", "/") and next(count) == number else None

    while number < next(count):
        server.chaos = None
        original = saved if options == ["--restore"] else None
        client.update_collection(
            "docs", metadata={**record, f"{DEFERRED_KEY}:1": original}, hnsw_config={"m": 16}
        )
        server.chaos, count = fail, itertools.count(1)
        result = quern("collection", command, "-c", "docs", *options, "--json")
        assert result.exit_code == 0, (number, result.output)
        assert len(orjson.loads(result.stdout).get("done", [])) == done
        number += 1
    assert number > 3

"""Load with Ray, in a separate process, into a server that all workers can reach."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from quernstone import Embedder
from quernstone_qdrant import QdrantLoader

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from tests.support.qdrant_server import running_server

RECORDS = 5_000
DRIVER = """
import json, os, sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import ray
from qdrant_client import QdrantClient
from quernstone import Embedder
from quernstone.errors import QuernstoneError
from quernstone_qdrant.ray import RayLoader
from quernstone_qdrant.targets import connect as quernstone_connect

url, pids, results = sys.argv[1:4]
options = json.loads(sys.argv[4])
grpc_port = options.pop("grpc_port")

def open_embedder():
    Path(pids, str(os.getpid())).touch()
    return Embedder("tiny", dimensions=64, dtype="float32")

def connect():
    if grpc_port:
        return quernstone_connect(url=url, prefer_grpc=True, grpc_port=grpc_port)
    return QdrantClient(url=url, check_compatibility=False, timeout=60)

os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # or Ray counts the tests' memory
ray.init(
    num_cpus=2, object_store_memory=150 << 20, include_dashboard=False, log_to_driver=False
)
rows = [json.loads(line) for line in open(options.pop("rows"))]
for skip_errors in options.pop("loads"):
    loader = RayLoader(connect, "docs", open_embedder, skip_errors=skip_errors, **options)
    try:
        report = asdict(loader.load(ray.data.from_items(rows, override_num_blocks=8)))
    except QuernstoneError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    with open(results, "a") as file:  # Ray writes to standard output
        file.write(json.dumps(report, default=str) + chr(10))
"""


def records(count=RECORDS):
    return [
        {
            "id": f"d{n}",
            "text": f"Record {n}: " + " ".join(f"w{n * 7 % 97}x{i}" for i in range(n % 9)),
        }
        for n in range(count)
    ]


class Ray:
    """A driver in a separate process."""

    def __init__(self, server, tmp_path, rows, loads=(False,), grpc_port=None):
        """Start the driver; `loads` holds `skip_errors` for each load."""
        self.pids = tmp_path / "pids"
        self.pids.mkdir(exist_ok=True)
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"workers": 2, "cpus": 0.5, "documents": 100, "rows": str(path), "loads": loads}
        options["grpc_port"] = grpc_port
        self._results = tmp_path / "results.jsonl"
        self._results.unlink(missing_ok=True)
        arguments = [server.url, str(self.pids), str(self._results), json.dumps(options)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, condition):
        deadline = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def results(self):
        _, err = self.process.communicate(timeout=280)
        assert self.process.returncode == 0, err[-3000:]
        return [json.loads(line) for line in self._results.read_text().splitlines()]


def assert_same_points(server, expected):
    with_ray, plain = server.collections["docs"].points(), expected.collections["docs"].points()
    assert with_ray.keys() == plain.keys()
    assert {i: payload for i, (payload, _) in with_ray.items()} == {
        i: payload for i, (payload, _) in plain.items()
    }
    for point, (_, vector) in plain.items():
        np.testing.assert_allclose(with_ray[point][1], vector, atol=1e-5)


@pytest.fixture(scope="module")
def expected():
    """A server that a `QdrantLoader` filled with the records."""
    with running_server() as server, Embedder("tiny", dimensions=64, dtype="float32") as embedder:
        client = server.client(timeout=60)
        report = QdrantLoader(client, "docs", embedder).load(records())
        assert report.embedded == RECORDS
        client.close()
        yield server


@pytest.fixture
def in_process(monkeypatch):
    """Runs the stages in this process, without a cluster, on the rows of a list."""
    import pyarrow as pa
    import ray

    from quernstone_qdrant import ray as module

    def stages(_, rows, plan):
        table = pa.Table.from_pylist(rows)
        written = module._write(module._Embed(plan)(module._read(table, plan)), plan)
        row = {module.COLUMN: written[module.COLUMN][0].as_py()}
        return SimpleNamespace(iter_rows=lambda: iter([row] if rows else []))

    def at_once(function):
        return SimpleNamespace(remote=function)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "remote", lambda **_: at_once)
    monkeypatch.setattr(ray, "get", lambda result: result)
    monkeypatch.setattr(module.RayLoader, "_stages", stages)
    client = QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)  # all targets share its collections
    return client


def test_the_report_names_what_the_target_does_not_have(in_process, embedder):
    from quernstone_qdrant.ray import RayLoader

    loader = RayLoader(lambda: in_process, "docs", lambda: embedder, workers=1, preset="binary")
    assert loader.load([]).ignored == ("quantization", "vectors on disk")


def test_rows_of_other_sources_and_values_of_other_types_are_errors(in_process, embedder):
    from quernstone_qdrant.ray import RayLoader

    def load(rows, source, **options):
        errors = []
        options = {"skip_errors": True, "on_error": errors.append, **options}
        settings = {"indexes": {"price": "float"}}
        loader = RayLoader(
            lambda: in_process, "docs", lambda: embedder, workers=1, settings=settings, **options
        )
        report = loader.load(rows, source=source)
        return report, [str(error) for error in errors]

    first, errors = load([{"id": "a", "text": "Mills.", "price": 1.5}], "products")
    assert (first.embedded, errors) == (1, [])
    second, (conflict,) = load([{"id": "a", "text": "Ann.", "price": 2.5}], "customers")
    assert (second.embedded, second.failed) == (0, 1)
    assert "it comes from 'customers' and would replace the document" in conflict
    replaced, errors = load(
        [{"id": "a", "text": "Ann.", "price": 2.5}], "customers", replace_sources=True
    )
    assert (replaced.replaced, replaced.embedded, errors) == (1, 1, [])
    typed, (wrong,) = load([{"id": "b", "text": "Ice.", "price": "cheap"}], "customers")
    assert (typed.embedded, typed.failed) == (0, 1)
    assert "`price` is 'cheap'" in wrong


@pytest.mark.slow
def test_two_workers_load_what_the_plain_loader_loads(tmp_path, expected):
    with running_server() as server:
        [report] = Ray(server, tmp_path, records()).results()
        assert (report["seen"], report["embedded"], report["skipped"]) == (RECORDS, RECORDS, 0)
        assert len(list((tmp_path / "pids").iterdir())) >= 2
        assert_same_points(server, expected)


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(tmp_path, expected):
    with running_server() as server:
        ray = Ray(server, tmp_path, records())
        ray.wait_until(server.writes)
        # kill the newest worker: the first process may only have prepared the collection
        victim = max(ray.pids.iterdir(), key=lambda path: path.stat().st_mtime)
        os.kill(int(victim.name), signal.SIGKILL)
        written = len(server.collections["docs"].points())
        [report] = ray.results()
        assert written < RECORDS
        assert report["embedded"] == RECORDS
        assert_same_points(server, expected)
        assert len(list(ray.pids.iterdir())) >= 3  # another took its place


@pytest.mark.slow
def test_a_second_load_goes_on_and_an_error_reaches_the_driver(tmp_path, expected):
    with running_server() as server, Embedder("tiny", dimensions=64, dtype="float32") as embedder:
        client = server.client(timeout=60)
        QdrantLoader(client, "docs", embedder).load(records(3_000))
        client.close()
        rows = [*records(), {"id": "bad", "text": None}]
        report, stopped = Ray(server, tmp_path, rows, loads=(True, False)).results()
        assert (report["seen"], report["embedded"], report["skipped"], report["failed"]) == (
            RECORDS + 1, RECORDS - 3_000, 3_000, 1,
        )  # fmt: skip
        assert_same_points(server, expected)
        assert stopped["error"] == "RecordError"
        assert "'bad'" in stopped["message"]


@pytest.mark.slow
def test_what_the_server_refuses_a_worker_is_raised_by_the_driver(tmp_path):
    with running_server() as server:
        server.chaos = lambda method, path: (
            "403" if method == "PUT" and path.endswith("/points") else None
        )
        [refused] = Ray(server, tmp_path, records(50)).results()
        assert refused["error"] == "WriteError"
        assert "status 403" in refused["message"]
        assert server.collections["docs"].points() == {}


@pytest.mark.slow
def test_by_grpc_a_switched_alias_and_a_replaced_collection_end_the_load(tmp_path):
    """The alias is switched during the first load, and its collection replaced in the second."""

    rows = records(2_000)

    def count(name):
        return len(server.collections[name].points())

    with running_server() as server, Embedder("tiny", dimensions=64, dtype="float32") as embedder:
        client = server.client(timeout=60)
        create = [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(alias_name="docs", collection_name=name)
            )
            for name in ("one", "two")
        ]
        drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="docs"))
        for name in ("one", "two"):
            QdrantLoader(client, name, embedder)
        client.update_collection_aliases(create[:1])
        server.delay = 0.05
        ray = Ray(server, tmp_path, rows, loads=(False, False), grpc_port=server.grpc_port)
        ray.wait_until(lambda: count("one"))
        client.update_collection_aliases([drop, create[1]])
        assert count("one") < len(rows)
        ray.wait_until(lambda: count("two"))
        assert count("one") == len(rows)  # where the first load began
        client.delete_collection("two")
        QdrantLoader(client, "two", embedder)
        switched, replaced = ray.results()
        assert {"rest", "grpc"} == {request.transport for request in server.requests}
    assert [switched["error"], replaced["error"]] == ["CollectionReplacedError"] * 2
    assert "the alias was switched from 'one' to 'two'" in switched["message"]
    assert "the alias was deleted, perhaps with its collection 'two'" in replaced["message"]

"""Stop and watch loads that run in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from tests.qdrant.cli.conftest import MAIN, texts

COMMAND = """
import sys, threading
from quernstone.embedder import Embedder
from quernstone.cli import main

mode, *arguments = sys.argv[1:]
if mode == "stuck":  # a model so large that its first batch never ends
    def stuck(self, *arguments, **options):
        print("in the model", file=sys.stderr, flush=True)
        threading.Event().wait()
    from quernstone.engines.torch.engine import TorchEngine
    TorchEngine.run = TorchEngine.launch = stuck
sys.argv[1:] = arguments
main()
"""


@contextmanager
def running(*arguments, mode="normal"):
    """Start `quern`, and kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, mode, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_for(found, what):
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)
    return value


def read_if_there(path):
    return orjson.loads(Path(path).read_bytes()) if os.path.exists(path) else None


def until(stream, text):
    """Read lines up to the one that contains a text."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"the stream ended without {text!r}")


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["int", "term"],
)
def test_a_batch_in_a_large_model_is_abandoned(quern, docs, number):
    del quern  # only its folder and models
    with running("load", docs, "-c", "docs", "--report", "r.json", mode="stuck") as process:
        until(process.stderr, "in the model")
        process.send_signal(number)
        until(process.stderr, "quern: stopping after what is in flight; ")
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "0 embedded" in stdout
    assert "the same command continues from there" in stderr
    report = orjson.loads(Path("r.json").read_bytes())
    assert (report["state"], report["stopped"], report["embedded"]) == ("stopped", True, 0)


def test_the_second_signal_aborts(quern, docs):
    del quern
    with running("load", docs, "-c", "docs", mode="stuck") as process:
        until(process.stderr, "in the model")
        process.send_signal(signal.SIGINT)
        assert "press again to abort" in until(process.stderr, "stopping")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "quern: aborted" in stderr


@pytest.mark.parametrize("place", ["--path", pytest.param("--edge", marks=pytest.mark.slow)])
def test_a_running_load_can_be_watched(quern, tmp_path, place):
    rows = tmp_path / "rows.jsonl"
    os.mkfifo(rows)
    where = ("-c", "docs", place, "here")
    every = ("--report", "r.json", "--progress-every", 0.1)
    with running("load", rows, *where, *every) as process:
        with rows.open("w") as pipe:
            pipe.write('{"text": "Rain falls."}\n{"text": "Snow falls."}\n')
            until(process.stderr, " documents, ")
            report = wait_for(lambda: read_if_there("r.json"), "report")
            assert (report["state"], report["finished"]) == ("running", None)
            shown = quern("collection", "info", *where)
            assert shown.exit_code == 0, shown.stderr
            assert shown.stdout.startswith("docs in here: a load is running since ")
            data = orjson.loads(quern("collection", "info", *where, "--json").stdout)
            assert (data["state"], data["collection"]) == ("running", "docs")
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert orjson.loads(Path("r.json").read_bytes())["state"] == "finished"
    assert quern("collection", "info", *where).stdout.startswith("docs in here: 2 points")


def test_a_report_of_a_killed_load_is_not_shown(quern, docs, monkeypatch):
    assert quern("load", docs, "-c", "docs").exit_code == 0
    from qdrant_client import QdrantClient

    from quernstone_qdrant.cli import load_report

    other = QdrantClient(path="qdrant-data")
    report = load_report.Path("qdrant-data/.load-docs.json")
    report.write_text("{}")
    os.utime(report, (1, 1))
    shown = quern("collection", "info", "-c", "docs")
    other.close()
    assert shown.exit_code == 1
    assert "in use by another process" in shown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_load_in_order(quern, docs, tmp_path, number):
    for n in range(300):
        (docs / f"n{n:03d}.txt").write_text(f"Number {n} of many.")
    lines = tmp_path / "slow.jsonl"
    os.mkfifo(lines)
    process = subprocess.Popen(
        [*MAIN, "load", docs, lines, "-c", "docs", "--batch-size", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with lines.open("w"):  # opened once the folder was read; then nothing comes
        time.sleep(0.5)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert b"the same command continues from there" in stderr
    confirmed = int(stdout.split(b" embedded")[0].split(b", ")[-1])
    assert len(texts()) == confirmed > 100
    again = orjson.loads(quern("load", docs, "-c", "docs", "--json").stdout)
    assert (again["skipped"], again["embedded"]) == (confirmed, 304 - confirmed)

"""`quern load -` reads standard input."""

import io
import os
import signal
import subprocess
import sys
import time

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient

ROWS = '{"id": 1, "text": "A mill grinds."}\n{"id": 2, "text": "It rains."}\n'
LOAD = ("load", "-", "-c", "docs", "--json")


def parquet():
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["A mill.", "Rain."]}), file)
    return file.getvalue()


def report(done):
    assert done.exit_code == 0, done.stderr
    return orjson.loads(done.stdout)


def payloads():
    client = QdrantClient(path="qdrant-data")
    points, _ = client.scroll("docs")
    client.close()
    return [point.payload for point in points]


@pytest.mark.parametrize(
    ("options", "stdin", "count"),
    [
        ((), ROWS, 2),
        ((), parquet(), 2),
        ((), "", 0),
        (("--input-format", "csv"), "text,year\nmill,1200\n", 1),
        (("--input-format", "lines"), "{mill}\nrain\n", 2),
        (("--input-format", "jsonl", "--text-field", "a"), '{"a": "mill"}\n', 1),
    ],
    ids=["jsonl", "parquet", "empty", "csv", "lines", "field"],
)
def test_formats(quern, options, stdin, count):
    done = report(quern(*LOAD, *options, "--allow-empty", "--report", "r.json", stdin=stdin))
    assert (done["seen"], done["embedded"], done["failed"]) == (count, count, 0)
    assert done["files"]["loaded"] == (count > 0)
    with open("r.json", "rb") as file:
        written = orjson.loads(file.read())
    assert (written["state"], written["total"], written["percent"]) == ("finished", None, None)


def test_what_is_already_stored_is_skipped_in_any_order(quern):
    for options in ((), ("--id-field", "id", "--namespace", "ids")):
        assert report(quern(*LOAD, *options, stdin=ROWS))["embedded"] == 2
        turned = "\n".join(reversed(ROWS.splitlines()))
        assert report(quern(*LOAD, *options, stdin=turned))["skipped"] == 2
        more = report(quern(*LOAD, *options, stdin='{"id": 3, "text": "Snow."}\n' + ROWS))
        assert (more["embedded"], more["skipped"]) == (1, 2)
    stored = payloads()
    assert len(stored) == 6
    assert {one["source"] for one in stored} == {"standard input"}
    assert not any("row" in one for one in stored)
    sources = [one["quernstone"]["source"] for one in stored]
    assert sorted(set(sources)) == ["ids:standard input", "standard input"]


def test_rows_are_not_doubled_by_an_id_field(quern):
    assert report(quern(*LOAD, stdin=ROWS))["embedded"] == 2
    refused = quern(*LOAD, "--id-field", "id", stdin=ROWS)
    assert refused.exit_code == 1
    assert "the row with the id '1' is stored as 'sha256:" in refused.stderr


def test_dead_letters_and_dry_runs(quern, docs):
    done = quern(*LOAD, "--dry-run", "--dead-letter", "bad.jsonl", stdin=f"{ROWS}nothing\n")
    assert (report(done)["documents"], report(done)["failed"]) == (2, 1)
    assert "left out: standard input, row 3: is not valid JSON" in done.stderr
    with open("bad.jsonl") as file:
        again = quern(*LOAD, docs, "--skip-errors", stdin=file.read())
    assert (report(again)["seen"], report(again)["failed"]) == (4, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("load", "-", "--prune"), "a pipe ends early"),
        (("load", "-", "--prune-all"), "a pipe ends early"),
        (("load", "DOCS", "--prune", "--limit", "1"), "--limit leaves documents out"),
        (("load", "-", "-"), "pass - once"),
        (("load", "DOCS", "--input-format", "csv"), "--input-format belongs to standard input"),
    ],
    ids=["prune", "prune-all", "limit", "twice", "format"],
)
def test_wrong_usage(quern, docs, monkeypatch, arguments, reason):
    monkeypatch.setenv("QUERN_MODEL", "not a model that is loaded")
    arguments = [docs if one == "DOCS" else one for one in arguments]
    done = quern(*arguments, "-c", "docs", stdin=ROWS)
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr
    assert not os.path.exists("qdrant-data")


def test_a_format_is_not_guessed(quern):
    refused = quern(*LOAD, stdin="id,text\n1,mill\n")
    assert refused.exit_code == 1
    assert "standard input: is neither JSON Lines nor Parquet" in refused.stderr
    assert "--input-format, such as csv or lines" in refused.stderr


def test_pruning_by_standard_input_is_refused(quern):
    report(quern(*LOAD, stdin=ROWS))
    refused = quern("collection", "prune", "-", "-c", "docs", stdin=ROWS)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "a pipe ends early" in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_load_that_waits_for_standard_input_stops_at_a_signal(quern):
    command = [sys.executable, "-c", "from quernstone.cli import main; main()", *LOAD[:-1]]
    command += ["--input-format", "lines"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(b"A mill.\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not os.path.exists("qdrant-data/.load-docs.json") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        errors = process.stderr.read().decode()
    assert "stopping after what is in flight" in errors
    assert "Traceback" not in errors
    assert "Fatal" not in errors

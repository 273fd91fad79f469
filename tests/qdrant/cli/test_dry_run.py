"""`quern load --dry-run` says what a load would do, and stores nothing."""

import os

import orjson
from qdrant_client import QdrantClient


def test_counts_first_records_and_time(quern, docs):
    rows = docs / "rows.csv"
    rows.write_text("id,title,body\n" + "".join(f"{n},t{n},A mill grinds.\n" for n in range(500)))
    options = ("-c", "docs", "--text-field", "title,body", "--id-field", "id", "--layout", "plain")
    done = quern("load", rows, *options, "--dry-run")
    assert (done.exit_code, done.stderr) == (0, "")
    first, files, time, *_ = done.stdout.splitlines()
    assert first.startswith("docs in qdrant-data: 500 documents, 500 chunks, ")
    assert first.endswith("; nothing was stored")
    assert files == "  1 of 1 files loaded"
    assert time.startswith("  embedding all of it takes about ")
    assert not os.path.exists("qdrant-data")
    shown = quern("load", rows, *options, "--dry-run", "--json")
    report = orjson.loads(shown.stdout)
    assert (report["documents"], report["failed"], report["dry_run"]) == (500, 0, True)

    assert quern("load", rows, *options).exit_code == 0
    client = QdrantClient(path="qdrant-data")
    points, _ = client.scroll("docs", limit=1000)
    client.close()
    stored = {point.payload["quernstone"]["key"]: point.payload for point in points}
    assert report["first"] == [stored["0"], stored["1"], stored["2"]]
    again = quern("load", rows, *options[:2], "--text-field", "title,body", "--dry-run", "--json")
    assert orjson.loads(again.stdout)["first"] == report["first"]


def test_errors_and_settings_are_those_of_the_load(quern, docs):
    (docs / "z.csv").write_text("text,n\nmill,1\nbad\n")
    stopped = quern("load", docs, "-c", "docs", "--dry-run")
    assert stopped.exit_code == 1
    assert "row 2: has 1 values for 2 columns (--skip-errors leaves it out)" in stopped.stderr
    done = quern("load", docs, "-c", "docs", "--dry-run", "--skip-errors")
    assert "5 documents, 5 chunks" in done.stdout
    assert "1 failed" in done.stdout
    assert "left out: " in done.stderr
    (docs / "z.csv").unlink()
    quern("load", docs, "-c", "docs")
    refused = quern("load", docs, "-c", "docs", "--dry-run", "--layout", "plain")
    assert "--layout universal, but --layout plain is requested" in refused.stderr


def test_rejected_records_are_those_of_the_load(quern, docs):
    rows = docs / "rows.jsonl"
    rows.write_text(
        '{"id": 1, "text": "mill", "year": 1200}\n'
        '{"id": 2, "text": "quern", "year": "old"}\n'
        "not JSON\n"
        '{"id": 1, "text": "another mill", "year": 1300}\n'
    )
    options = ("-c", "docs", "--id-field", "id", "--index", "year=integer", "--json")
    options += ("--dead-letter", "rejected.jsonl", "--report", "r.json")
    tried = quern("load", rows, *options, "--dry-run")
    assert tried.exit_code == 0
    assert tried.stderr.count("left out: ") == 3
    assert not os.path.exists("qdrant-data")
    found = orjson.loads(tried.stdout)
    with open("rejected.jsonl", "rb") as file:
        rejected = file.read()
    assert len(rejected.splitlines()) == 3
    with open("r.json", "rb") as file:
        report = orjson.loads(file.read())
    assert (report["dry_run"], report["state"]) == (True, "finished")
    assert (report["seen"], report["chunks"], report["embedded"]) == (3, 1, 0)

    loaded = orjson.loads(quern("load", rows, *options).stdout)
    for name, of_load in {"documents": "seen", "chunks": "chunks", "failed": "failed"}.items():
        assert found[name] == loaded[of_load] == report[of_load], name
    with open("rejected.jsonl", "rb") as file:
        assert file.read() == rejected


def test_another_model_is_refused(quern, docs, checkpoints):
    assert quern("load", docs, "-c", "docs").exit_code == 0
    other = checkpoints("embedding-0.6b", layers=2, width=16, small_vocabulary=True)
    refused = quern("load", docs, "-c", "docs", "--model", other, "--dry-run")
    assert refused.exit_code == 1
    assert "was created with model " in refused.stderr

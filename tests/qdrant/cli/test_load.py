import os
import subprocess

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient
from tests.qdrant.cli.conftest import MAIN, texts
from tests.support.qdrant_server import running_server


def test_load_twice(quern, docs):
    first = quern("load", docs, "--collection", "docs")
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.startswith("docs in qdrant-data: 4 documents, 4 chunks, 4 embedded (")
    assert len(texts()) == 4

    second = quern("load", docs, "-c", "docs", "--json")
    report = orjson.loads(second.stdout)
    assert report.pop("seconds") >= 0
    assert report == {
        "collection": "docs",
        "target": "qdrant-data",
        "seen": 4,
        "unread": 0.0,
        "chunks": 4,
        "embedded": 0,
        "skipped": 4,
        "refreshed": 0,
        "replaced": 0,
        "removed": 0,
        "pruned": 0,
        "failed": 0,
        "retries": 0,
        "unconfirmed": 0,
        "stopped": False,
        "ignored": [],
        "notes": [],
        "points": 4,
        "status": "green",
        "files": {
            "found": 3,
            "loaded": 3,
            "failed": 0,
            "skipped": {},
            "unfollowed": [],
            "values": {},
        },
    }
    assert len(texts()) == 4


def test_a_load_reports_the_index_and_what_it_did_otherwise(quern, docs):
    with running_server() as server:
        options = ("-c", "docs", "--url", server.url, "--set", "m=24", "--replication-factor", 1)
        first = quern("load", docs, *options)
        assert first.stdout.splitlines()[1] == "  4 points, ready (green)"
        assert server.collections["docs"].config["hnsw_config"]["m"] == 24
        server.status = "yellow"
        (docs / "d.txt").write_text("Hail falls.")
        arguments = (*options[:-3], "m=32", "--defer-index", "m0")
        second = quern("load", docs, *arguments)
        assert second.stdout.splitlines()[1] == "  5 points, indexing (yellow)"
        assert "quern: changed m from 24 to 32" in second.stderr
        assert "quern: index deferred by `threshold` instead of `m0`" in second.stderr


def test_edge(quern, docs):
    first = quern("load", docs, "-c", "docs", "--edge", "edge")
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.startswith("docs in edge: 4 documents, 4 chunks, 4 embedded (")
    assert "4 unchanged" in quern("load", docs, "-c", "docs", "--edge", "edge").stdout
    options = ("-c", "docs", "--edge", "edge", "--no-rerank", "--limit", 2, "--json")
    assert len(orjson.loads(quern("search", "rain", *options).stdout)) == 2
    assert "available: 'docs'" in quern("search", "rain", "-c", "x", "--edge", "edge").stderr


def test_chunk_size_and_fields(quern, docs):
    rows = docs / "rows.csv"
    rows.write_text(f"key,story\nk1,{'A mill grinds. ' * 20}\n")
    options = ("--text-field", "story", "--id-field", "key", "--path", "elsewhere")
    quern("load", rows, "-c", "docs", *options, "--chunk-size", 100, "--chunk-overlap", 0)
    assert len(texts("elsewhere")) > 2
    whole = quern("load", rows, "-c", "whole", *options, "--chunk-size", 0, "--json")
    assert orjson.loads(whole.stdout)["chunks"] == 1


def test_a_load_accounts_for_every_file(quern, docs, tmp_path):
    for name in ("a.zip", "b.zip", "empty.txt", "drafts/c.txt", "venv/lib/d.txt"):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text("" if name == "empty.txt" else "text")
    (docs / "gone").symlink_to("nowhere")
    done = quern(
        *("load", docs, "-c", "docs", "--exclude", "drafts/", "--prune", "--report", "r.json"),
    )
    assert done.exit_code == 0
    skipped = "2 .zip, 1 broken link, 1 drafts/ (excluded), 1 empty, 1 venv (excluded)"
    assert done.stdout.splitlines()[-1] == f"  3 of 9 files loaded; skipped: {skipped}"
    assert "nothing was pruned: 'gone' may be folders, but the links are broken" in done.stderr
    with open("r.json", "rb") as file:
        files = orjson.loads(file.read())["files"]
    assert (files["found"], files["loaded"], files["failed"]) == (9, 3, 0)
    pruned = quern("collection", "prune", docs, "-c", "docs")
    assert pruned.exit_code == 2
    assert "the link 'gone' is broken or leads in a circle" in pruned.stderr
    options = ("--exclude", "gone", "--exclude", "drafts/", "--no-default-excludes")
    assert quern("collection", "prune", docs, "-c", "docs", *options).exit_code == 0
    more = quern("load", docs, "-c", "docs", *options, "--prune", "--json")
    assert orjson.loads(more.stdout)["files"]["loaded"] == 4


def test_equal_ids_of_two_files(quern, tmp_path):
    files = [tmp_path / "products.jsonl", tmp_path / "customers.jsonl"]
    for path in files:
        path.write_text(f'{{"id": 1, "text": "{path.stem}"}}\n')
    options = ("-c", "docs", "--id-field", "id")
    assert quern("load", files[0], *options).exit_code == 0
    refused = quern("load", files[1], *options)
    assert refused.exit_code == 1
    assert "--replace-sources" in refused.stderr
    apart = (*options, "--namespace", "customers")
    assert quern("load", files[1], *apart).exit_code == 0
    assert texts() == ["customers", "products"]
    pruned = quern("collection", "prune", files[1], *apart, "--json")
    assert orjson.loads(pruned.stdout)["pruned"] == 0
    done = quern("load", files[1], *options, "--replace-sources")
    assert "1 replaced" in done.stdout
    assert texts() == ["customers", "customers"]


def test_a_load_without_documents_fails(quern, tmp_path):
    (tmp_path / "a.zip").write_text("x")
    done = quern("load", tmp_path / "a.zip", tmp_path, "-c", "docs", "--skip-errors")
    assert done.exit_code == 1
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.zip").write_text("x")
    done = quern("load", folder, "-c", "docs")
    assert done.exit_code == 1
    assert f"there are no documents in {folder} (skipped: 1 .zip); check the paths" in done.stderr
    assert quern("load", folder, "-c", "docs", "--allow-empty").exit_code == 0


@pytest.mark.parametrize("bad", ["z.parquet", "z.txt", "z.jsonl", "z.csv", "gone.txt"])
def test_a_bad_file_stops_with_its_name_and_loses_nothing(quern, docs, bad):
    path = docs / "zz" / bad
    path.parent.mkdir()
    if bad == "z.parquet":
        pq.write_table(pa.table({"text": ["x"] * 100}), path)
        path.write_bytes(path.read_bytes()[:-10])
    elif bad == "gone.txt":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"\xff\xfe{")
    (docs / "zz" / "zzz.txt").write_text("The last one.")

    stopped = quern("load", docs, "-c", "docs")
    assert (stopped.exit_code, stopped.stdout) == (1, "")
    assert stopped.stderr.startswith(f"quern: {path}")
    assert stopped.stderr.count("\n") == 1
    is_first_of_its_format = bad in ("z.parquet", "z.csv")  # read before anything is embedded
    stored = 0 if is_first_of_its_format else 4
    assert os.path.exists("qdrant-data") == bool(stored)

    skipped = quern("load", docs, "-c", "docs", "--skip-errors", "--json")
    assert skipped.exit_code == 0
    assert skipped.stderr.startswith(f"quern: left out: {path}")
    report = orjson.loads(skipped.stdout)
    assert (report["failed"], report["embedded"], report["skipped"]) == (1, 5 - stored, stored)
    assert "The last one." in texts()


def test_another_layout_than_the_collections_is_refused(quern, docs):
    quern("load", docs, "-c", "docs")
    done = quern("load", docs, "-c", "docs", "--layout", "plain")
    assert done.exit_code == 1
    assert "created with --layout universal, but --layout plain is requested" in done.stderr
    hybrid = quern("search", "mills", "-c", "docs", "--hybrid", "--no-rerank")
    assert hybrid.exit_code == 2
    assert "collection 'docs' has no BM25; load it with --hybrid" in hybrid.stderr


def test_searching_in_the_wrong_place(quern, docs):
    missing = quern("search", "mills", "-c", "docs")
    assert missing.exit_code == 2
    assert "the Qdrant folder 'qdrant-data' does not exist; load documents" in missing.stderr
    assert not os.path.exists("qdrant-data")
    quern("load", docs, "-c", "docs")
    done = quern("search", "mills", "-c", "dogs")
    assert done.exit_code == 1
    assert done.stderr == "quern: collection 'dogs' does not exist (available: 'docs')\n"


def test_another_model_is_refused(quern, docs, checkpoints):
    quern("load", docs, "-c", "docs")
    other = checkpoints("embedding-0.6b", layers=2, width=16, small_vocabulary=True)
    for command in (("load", docs), ("search", "mills", "--no-rerank")):
        done = quern(*command, "-c", "docs", "--model", other)
        assert done.exit_code == 1
        assert "collection 'docs' was created with model" in done.stderr
        assert str(other) in done.stderr
    smaller = quern("load", docs, "-c", "docs", "--dimensions", 32)
    assert "was created with dimensions 64, but the embedder has 32" in smaller.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load", "-c", "docs"], "Missing argument"),
        (["load", "gone", "-c", "docs"], "gone"),
        (["load", "."], "--collection"),
        (["load", ".", "-c", "docs", "--path", "a", "--url", "http://b"], "--path and --url"),
        (
            ["load", ".", "-c", "d", "--chunk-size", "9", "--chunk-overlap", "9"],
            "--chunk-overlap is 9",
        ),
        (["search", "q", "-c", "docs", "--limit", "0"], "--limit"),
        (["load", ".", "-c", "d", "--preset", "fast"], "'fast' is not one of 'dense', 'mrl'"),
        (["load", ".", "-c", "d", "--index", "year=number"], "'year=number' is not of the form"),
        (["load", ".", "-c", "d", "--prefix", "64"], "--prefix needs a named full vector"),
        (["search", "q", "-c", "docs", "--filter", "year"], "--filter 'year' is not of the form"),
    ],
)
def test_wrong_usage_is_2(quern, arguments, message):
    done = quern(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_a_folder_in_use_and_a_server_that_is_not_there(quern, docs):
    quern("load", docs, "-c", "docs")
    client = QdrantClient(path="qdrant-data")
    busy = quern("search", "mills", "-c", "docs")
    client.close()
    assert busy.exit_code == 1
    assert "'qdrant-data' is in use by another process" in busy.stderr
    nowhere = ("--url", "http://127.0.0.1:9", "--patience", 0)
    away = quern("search", "mills", "-c", "docs", *nowhere)
    assert away.exit_code == 1
    assert away.stderr.startswith(
        "quern: Qdrant failed at reading the configuration (collection 'docs' "
        "at http://127.0.0.1:9): "
    )


def test_process(quern, docs):
    load = subprocess.run(
        [*MAIN, "load", docs, "-c", "docs"], capture_output=True, timeout=120, check=False
    )
    assert (load.returncode, load.stderr) == (0, b"")
    bad = subprocess.run(
        [*MAIN, "load", docs, "-c", "docs", "--text-field", "nope"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert b"Traceback" not in bad.stderr
    assert b"c.jsonl, row 1: no column `nope` for the text; the columns are `text`" in bad.stderr
    search = subprocess.run(
        [*MAIN, "search", "mills", "-c", "docs", "--json"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert search.returncode == 0
    assert len(orjson.loads(search.stdout)) == 4


def test_report_and_dead_letters(quern, docs, tmp_path):
    (docs / "a.csv").write_text("text\ngood\n")
    (docs / "bad.csv").write_text("name\nno text column\n")
    report_file, letters = tmp_path / "report.json", tmp_path / "letters.jsonl"
    stopped = quern("load", docs, "-c", "docs", "--report", report_file)
    assert stopped.exit_code == 1
    report = orjson.loads(report_file.read_bytes())
    assert report["failed"] == 1
    assert report["error"].startswith("SourceError: ")
    done = quern(
        "load", docs, "-c", "docs", "--report", report_file, "--dead-letter", letters, "--prune"
    )
    assert done.exit_code == 0
    assert "nothing was pruned, because something was left out" in done.stderr
    report = orjson.loads(report_file.read_bytes())
    assert (report["failed"], report["error"], report["collection"]) == (1, None, "docs")
    assert report["provenance"]["prompts"]["document"] == "{text}"
    assert report["provenance"]["prompts"]["query"].startswith("Instruct: ")
    (letter,) = letters.read_text().splitlines()
    assert "no text column" in letter
    for command in (("load", "--prune"), ("load", "--prune-all"), ("collection", "prune")):
        pruned = quern(*command, letters, "-c", "docs")
        assert pruned.exit_code == 2
        assert "is a dead-letter file" in pruned.stderr
    assert len(texts()) == 5


def test_allow_mismatch_is_recorded(quern, docs, checkpoints):
    quern("load", docs, "-c", "docs")
    other = checkpoints("embedding-0.6b", layers=2, width=16, small_vocabulary=True)
    (docs / "new.txt").write_text("A new one.")
    done = quern("load", docs, "-c", "docs", "--model", other, "--allow-mismatch", "--json")
    assert orjson.loads(done.stdout)["embedded"] == 1
    info = orjson.loads(quern("collection", "info", "-c", "docs", "--json").stdout)
    (mixed,) = info["provenance"]["mixed"]
    assert mixed["model"] == str(other)
    assert info["points"] == 5
    for command in (("load", docs), ("search", "new", "--no-rerank")):
        arguments = (*command, "-c", "docs", "--model", other)
        assert quern(*arguments).exit_code == 1
        assert quern(*arguments, "--allow-mismatch").exit_code == 0

"""A collection remembers how it is loaded, and what contradicts it is refused."""

import os

import orjson
import pytest


def report(done):
    assert done.exit_code == 0, done.stderr
    return orjson.loads(done.stdout)


@pytest.mark.parametrize("place", ["--path", "--edge"])
def test_a_second_load_needs_no_options(quern, tmp_path, monkeypatch, place):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 7, "story": "Grain is ground by hand. It rains."}\n')
    where = ("-c", "docs", place, "db", "--text-field", "story", "--json")
    first = quern(
        *("load", rows, *where, "--model", "tiny", "--dimensions", 64, "--id-field", "id"),
        *("--chunk-size", 30, "--chunk-overlap", 0, "--preset", "mrl", "--layout", "plain"),
    )
    assert report(first)["embedded"] == 2
    monkeypatch.delenv("QUERN_MODEL")
    assert report(quern("load", rows, *where))["skipped"] == 2

    for options, both in (
        (("--dimensions", 128), ("dimensions 64", "128")),
        (("--id-field", "story"), ("'id'", "'story'")),
        (("--chunk-size", 50), ("--chunk-size 30", "--chunk-size 50")),
        (("--chunk-overlap", 2), ("--chunk-overlap 0", "--chunk-overlap 2")),
        (("--layout", "universal"), ("--layout plain", "--layout universal")),
        (("--preset", "dense"), ("--prefix 32", "--prefix none")),
    ):
        refused = quern("load", rows, *where, *options)
        assert refused.exit_code in (1, 2)
        assert all(value in refused.stderr for value in both), refused.stderr
        assert refused.stderr.count("\n") == 1
    pruned = quern("collection", "prune", rows, *where[:-1], "--json")
    assert report(pruned)["pruned"] == 0
    same = ("--dimensions", 64, "--id-field", "id", "--chunk-size", 30, "--layout", "plain")
    assert report(quern("load", rows, *where, *same))["skipped"] == 2


def test_rows_of_another_namespace_have_ids_of_their_own(quern, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,mill\n")
    (tmp_path / "b.csv").write_text("key,text\n1,rain\n")
    where = ("-c", "docs", "--json")
    report(quern("load", tmp_path / "a.csv", *where, "--id-field", "id"))
    refused = quern("load", tmp_path / "b.csv", *where)
    assert "no column `id` for the ids; the columns are `key`, `text`" in refused.stderr
    options = ("--namespace", "b", "--id-field", "key")
    assert report(quern("load", tmp_path / "b.csv", *where, *options))["embedded"] == 1
    assert report(quern("load", tmp_path / "b.csv", *where, *options[:2]))["skipped"] == 1
    assert report(quern("load", tmp_path / "a.csv", *where))["skipped"] == 1


def test_the_environment_sets_the_collection_and_its_place(quern, docs, monkeypatch):
    monkeypatch.setenv("QUERN_COLLECTION", "docs")
    monkeypatch.setenv("QUERN_PATH", "here")
    assert quern("load", docs).stdout.startswith("docs in here: 4 documents")
    assert quern("collection", "info").stdout.startswith("docs in here: 4 points")
    assert orjson.loads(quern("search", "mills", "--no-rerank", "--json").stdout)
    assert quern("load", docs, "--edge", "edge").stdout.startswith("docs in edge: 4 documents")
    monkeypatch.setenv("QUERN_URL", "http://127.0.0.1:9")
    assert "--path and --url name different places" in quern("collection", "info").stderr
    assert quern("collection", "info", "--path", "here").exit_code == 0


def test_the_model_of_the_collection_wins_over_the_environment(quern, docs, monkeypatch):
    report(quern("load", docs, "-c", "docs", "--model", "tiny", "--dimensions", 64, "--json"))
    small = os.environ["QUERN_MODEL"]  # its vectors have fewer than 64 numbers
    assert report(quern("load", docs, "-c", "docs", "--json"))["skipped"] == 4
    assert report(quern("search", "mill", "-c", "docs", "--no-rerank", "--json"))
    assert report(quern("collection", "verify", "-c", "docs", "--json"))["passed"]
    plan = quern("migrate", "-c", "docs", "--layout", "plain", "--dry-run", "--json")
    assert (report(plan)["new_model"], report(plan)["embedded"]) == ("tiny", 0)

    for command in (("load", docs), ("search", "mill", "--no-rerank"), ("collection", "verify")):
        refused = quern(*command, "-c", "docs", "--model", small)
        assert (refused.exit_code, refused.stdout) == (1, ""), command
        assert "created with model 'tiny', but the embedder has" in refused.stderr
        assert repr(small) in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert report(quern("load", docs, "-c", "new", "--json"))["embedded"] == 4
    monkeypatch.setenv("QUERN_MODEL", "tiny")
    assert report(quern("search", "mill", "-c", "new", "--no-rerank", "--json"))

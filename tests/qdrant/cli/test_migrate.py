"""`quern migrate`: dry run, switch, rollback, finish."""

import json
from pathlib import Path


def test_a_collection_is_migrated_from_the_command_line(quern, docs, checkpoints):
    model = str(checkpoints("embedding-0.6b", layers=1, width=32, small_vocabulary=True))
    quern("load", docs, "-c", "docs", "--edge", "edge")
    where = ("-c", "docs", "--edge", "edge")
    plan = quern("migrate", *where, "--model", model, "--hybrid", "--dry-run")
    assert "4 points" in plan.output, plan.output
    assert "then their folders exchange names" in plan.output
    Path("queries.txt").write_text("how is grain ground?\n\nrain\n", "utf-8")
    result = quern(
        "migrate",
        *where,
        "--model",
        model,
        "--hybrid",
        "--plot",
        "overlap.png",
        "--queries",
        "queries.txt",
    )
    assert "docs leads to docs: 4 points in" in result.output, result.output
    assert "are the same in both collections" in result.output
    assert "nearest to 2 queries, " in result.output
    assert Path("overlap.png").read_bytes()[:4] == b"\x89PNG"
    verified = quern("collection", "verify", *where)
    assert "matches its records" in verified.output
    assert "docs leads to docs" in quern("migrate", *where, "--rollback").output
    again = quern("migrate", *where, "--model", model, "--hybrid", "--json")
    assert json.loads(again.stdout)["embedded"] == 0
    assert "the old collection is deleted" in quern("migrate", *where, "--finish").output


def test_a_collection_is_migrated_in_place(quern, docs, checkpoints):
    model = str(checkpoints("embedding-0.6b", layers=1, width=32))
    quern("load", docs, "-c", "docs", "--edge", "edge")
    where = ("-c", "docs", "--edge", "edge")
    given = (*where, "--model", model, "--in-place", "--to", "wide")
    plan = quern("migrate", *given, "--dry-run")
    assert "a new vector 'wide' is filled in the same collection, in place" in plan.output
    assert "beside the old vectors" in plan.output
    beside = quern("migrate", *where, "--model", model, "--dry-run").output
    assert "`in_place` (--in-place) is possible" in beside
    refused = quern("migrate", *given, "--hybrid").output
    assert "cannot be migrated in place: `bm25` is None" in " ".join(refused.split())
    result = quern("migrate", *given)
    assert "docs records the new model: 4 points in 3 passes" in result.output, result.output
    assert "are the same by both models" in result.output
    assert "matches its records" in quern("collection", "verify", *where).output
    described = json.loads(quern("collection", "info", *where, "--json").stdout)
    assert set(described["vectors"]) == {"", "wide"}
    assert described["provenance"]["settings"]["vector"] == "wide"
    back = quern("migrate", *where, "--rollback")
    assert "docs records the old model; the vector wide is kept" in back.output
    again = quern("migrate", *given, "--json")
    assert json.loads(again.stdout)["embedded"] == 0
    loaded = json.loads(quern("load", docs, *where, "--model", model, "--json").stdout)
    assert (loaded["skipped"], loaded["embedded"]) == (4, 0)
    assert "the old vectors are deleted" in quern("migrate", *where, "--finish").output
    old = quern("migrate", *where, "--rollback", "--old-model", model).output
    assert "none is under way" in " ".join(old.split())


def test_wrong_options_are_refused(quern, docs):
    quern("load", docs, "-c", "docs")
    result = quern("migrate", "-c", "docs", "--rollback", "--finish")
    assert result.exit_code != 0
    assert "exclude each other" in result.output
    Path("queries.txt").write_text("\n", "utf-8")
    given = ("migrate", "-c", "docs", "--queries", "queries.txt")
    assert "leave out --dry-run" in quern(*given, "--rollback").output
    assert "has no query" in quern(*given, "--model", "tiny").output

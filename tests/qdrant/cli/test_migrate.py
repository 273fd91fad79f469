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


def test_wrong_options_are_refused(quern, docs):
    quern("load", docs, "-c", "docs")
    result = quern("migrate", "-c", "docs", "--rollback", "--finish")
    assert result.exit_code != 0
    assert "exclude each other" in result.output
    Path("queries.txt").write_text("\n", "utf-8")
    given = ("migrate", "-c", "docs", "--queries", "queries.txt")
    assert "leave out --dry-run" in quern(*given, "--rollback").output
    assert "has no query" in quern(*given, "--model", "tiny").output

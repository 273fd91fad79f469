"""The table of engines and capabilities: made of what the suites found, and up to date."""

from pathlib import Path

import pytest

from quernstone.testing.__main__ import main
from quernstone.testing.capabilities import CAPABILITIES, FOUND, read, render, replaced

DOCS = Path(__file__).parents[3] / "docs"


def test_what_the_suites_find_is_what_is_committed(request):
    """Runs behind the suites of this folder, in the same session."""
    found = request.config.stash[FOUND]
    if not found:
        pytest.skip("the contract suites have not run in this session")
    committed = read(DOCS / "capabilities")
    for engine, tasks in found.items():
        for task, rows in tasks.items():
            for capability, result in rows.items():
                known = committed[engine][task][capability]
                measured = type(result) is type(known) is float
                assert measured or result == known, (
                    f"{engine}, {task}, {capability}: `make capabilities` writes the table anew"
                )


def test_the_table_is_made_of_what_is_committed():
    page = (DOCS / "engines.md").read_text()
    committed = read(DOCS / "capabilities")
    assert {"torch", "transformers", "sentence-transformers"} <= set(committed)
    assert page == replaced(page, render(committed))


def test_nothing_is_reported_that_no_suite_tests():
    for tasks in read(DOCS / "capabilities").values():
        for task, rows in tasks.items():
            assert rows.keys() <= CAPABILITIES[task].keys()


def test_a_table_of_two_engines(tmp_path):
    found = {
        "good": {
            "embed": {
                "order": True,
                "batch_mates": 3.14e-7,
                "agreement": 0.99998765,
                "usage": True,
            }
        },
        "poor": {
            "embed": {
                "order": "it sorts",
                "batch_mates": 0.0,
                "agreement": 1.0,
                "usage": "it sorts",
            },
            "rerank": {"order": "failed"},
        },
    }
    lines = render(found).splitlines()
    assert lines[:3] == [
        "| Embedding | good | poor |",
        "|---|---|---|",
        "| results in input order | yes | no (1) |",
    ]
    assert "| batch-mates change a vector by at most | 4e-7 | 0 |" in lines
    assert "| smallest cosine to the reference | 0.9999 | 1 |" in lines
    assert "| tokens are counted | yes | no (1) |" in lines
    assert "| `dimensions` | not tested | not tested |" in lines
    assert "| Reranking | poor |" in lines
    assert lines[-2:] == ["1. it sorts", "2. failed"]


def test_only_the_table_of_a_page_is_replaced():
    page = "a\n<!-- capabilities -->\nold\n<!-- end of capabilities -->\nb\n"
    assert replaced(page, "new\n") == (
        "a\n<!-- capabilities -->\n\nnew\n\n<!-- end of capabilities -->\nb\n"
    )
    with pytest.raises(ValueError, match="the page lacks"):
        replaced("a page", "new")


CONTRACT = """
import pytest
from quernstone.testing.base import Contract
from quernstone.testing.capabilities import shows

class Nothing:
    def __init__(self, **settings): self.settings = settings
    def close(self): pass

class TestEngine(Contract):
    core, task, engine = Nothing, "embed", "my engine"
    cannot = {"dimensions": "too small", "test_named": "this one only"}

    @pytest.fixture
    def settings(self): return {"model": "m"}

    @shows("order")
    def test_order(self, subject): assert subject.settings == {"model": "m"}
    @shows("batch_mates")
    def test_batch_mates(self, record_property): record_property("measured", 1e-7)
    @shows("dimensions")
    def test_dimensions(self): assert 0
    @shows("usage")
    def test_usage(self): assert 0
    @shows("long")
    def test_long(self): pass
    @shows("long")
    def test_named(self): assert 0
    @shows("agreement")
    def test_agreement(self): pytest.skip("no reference")
"""


def test_the_plugin_writes_what_a_suite_found(pytester, tmp_path):
    pytester.makepyfile(CONTRACT)
    folder = tmp_path / "found"
    arguments = ["-p", "quernstone.testing.capabilities", "--capabilities", str(folder)]
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=3, failed=1, xfailed=2, skipped=1)
    found = read(folder)["my engine"]["embed"]
    assert found == {
        "order": True,
        "batch_mates": 1e-7,
        "dimensions": "too small",
        "long": "this one only",
        "usage": "failed",
    }
    assert list(found) == [name for name in CAPABILITIES["embed"] if name in found]
    page = tmp_path / "page.md"
    page.write_text("<!-- capabilities --><!-- end of capabilities -->")
    main(str(folder), str(page))
    assert "| `dimensions` | no (1) |" in page.read_text()


def test_a_claim_that_is_not_true_fails(pytester):
    pytester.makepyfile(
        CONTRACT.replace("def test_dimensions(self): assert 0", "def test_dimensions(self): pass")
    )
    result = pytester.runpytest_subprocess("-p", "quernstone.testing.capabilities")
    result.assert_outcomes(passed=3, failed=2, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*too small*"])

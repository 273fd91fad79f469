"""What the figures of benchmarks/ rest on: sides in processes of their own, in turn."""

import statistics

import pytest
from benchmarks.child import Child
from benchmarks.texts import docstrings, mix
from benchmarks.timing import Side, TimedSide, compare


def test_a_child_answers():
    with Child("string:Template", template="$name") as child:
        assert child.get("substitute", {"name": "quern"}) == "quern"
        assert 0 < child.run("substitute", {"name": "quern"}) < 1


def test_what_a_child_prints_is_no_answer():
    with Child("pprint:PrettyPrinter") as child:
        child.run("pprint", "noise")
        assert child.get("pformat", 1) == "1"


def test_an_error_ends_a_child(capfd):
    with (
        Child("string:Template", template="$name") as child,
        pytest.raises(RuntimeError, match="`string:Template` ended with 1"),
    ):
        child.run("substitute", {})
    assert "KeyError: 'name'" in capfd.readouterr().err


def test_sides_run_in_turn():
    order = []

    def timed(name, seconds):
        left = iter(seconds)

        def run():
            order.append(name)
            return next(left)

        return TimedSide(name, run, expected=2)

    result = compare(
        "title",
        [timed("a", [1, 2, 9]), timed("b", [4, 4, 8])],
        unit="tokens",
        amount=10,
        repeats=3,
        floor=timed("floor", [3, 1, 2]),
    )
    assert order == ["a", "floor", "b"] * 3
    assert result.seconds == [2, 4]
    assert result.ratios == [1, 2]
    assert result.rates == [5, 2.5]
    assert result.spread == [9, 2]
    assert result.shares == [0.5, 0.25]  # of the floor's best


def test_a_side_in_this_process_is_timed():
    side = Side("sum", lambda: sum(range(1000)))
    side.measure()
    assert 0 < side.median < 1


def test_mixes():
    """By characters, as no tokenizer is at hand; about 4.4 are a token."""
    assert mix("docstring", 100) == docstrings(100) != docstrings(100, seed=1)
    lengths = sorted(map(len, docstrings(100)))
    assert statistics.median(lengths) == pytest.approx(76 * 4.4, rel=0.1)
    assert lengths[95] == pytest.approx(507 * 4.4, rel=0.2)
    assert len(set(docstrings(500))) == 500
    assert all(6 <= len(text.split()) <= 10 for text in mix("short", 200))
    assert all(7000 < len(text) < 30_000 for text in mix("long", 4))

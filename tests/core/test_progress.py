"""Progress in a pipe: a line every half minute, and one at the end."""

import io
import sys

import pytest

from quernstone import progress
from quernstone.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_every_half_minute(clock, capsys):
    with progress_bar("copying", 4000, show=True) as advance:
        for seconds in range(10, 101, 10):
            clock[0] = float(seconds)
            advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "copying: 300 of 4,000 (8%), 10.0/s, 6 minutes left",
        "copying: 600 of 4,000 (15%), 10.0/s, 6 minutes left",
        "copying: 900 of 4,000 (22%), 10.0/s, 5 minutes left",
        "copying: 1,000 of 4,000 (25%), 10.0/s, 5 minutes left",
    ]


def test_an_unknown_total_is_left_out(clock, capsys):
    with progress_bar("reading", None, show=True) as advance:
        clock[0] = 60.0
        advance(1500)
    assert capsys.readouterr().err == "reading: 1,500, 25.0/s\n" * 2


@pytest.mark.parametrize("show", [True, False])
def test_a_short_call_prints_one_line_if_asked(clock, capsys, show):
    with progress_bar("copying", 10, show=show) as advance:
        clock[0] = 20.0
        advance(10)
    assert capsys.readouterr().err == "copying: 10 of 10 (100%), 0.5/s\n" * show


def test_a_bar_leaves_results_on_standard_output(monkeypatch, capfd):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress_bar("searching", 2, show=True) as advance:
        sys.stdout.write("the first hit\n")
        advance(1)
    assert "searching" in terminal.getvalue()
    assert capfd.readouterr().out == "the first hit\n"

"""The progress of `quern load`, on a terminal and in a pipe."""

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from quernstone_qdrant import LoadReport, QdrantLoader
from quernstone_qdrant.cli.display import LoadDisplay
from quernstone_qdrant.cli.progress import Snapshot
from quernstone_qdrant.report import Depths


class Screen(io.StringIO):
    """Keeps what is written to it."""

    def __init__(self, *, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def wait_for(self, *texts):
        deadline = time.monotonic() + 20
        while not all(text in self.getvalue() for text in texts):
            assert time.monotonic() < deadline, self.getvalue()[-1000:]
            time.sleep(0.02)


class Reports:
    """Keeps the snapshots for the report files."""

    def __init__(self):
        self.updates, self.ends = [], []

    def update(self, snapshot):
        self.updates.append(snapshot)

    def finish(self, snapshot, error):
        self.ends.append((snapshot, error))


@pytest.fixture
def screen(monkeypatch):
    def screen(*, terminal, columns=160):
        monkeypatch.setenv("COLUMNS", str(columns))
        made = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", made)
        return made

    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return screen


def test_a_wide_terminal_sees_the_figures_and_the_stages(screen, client, embedder):
    seen = screen(terminal=True)
    release = []

    def records():
        yield {"id": "a", "text": "A quern is a hand mill."}
        yield {"id": "b", "text": "Rain falls."}
        # the display draws on a thread of its own: the third record comes when it has shown two
        seen.wait_for("66% 2 of 3, ", "look up 0 > embed 0 > write 0")
        release.append(True)
        yield {"id": "c", "text": "Snow falls."}

    with LoadDisplay(3, every=0) as display:
        seen.wait_for("opening")
        loader = QdrantLoader(client, "docs", embedder, batch_size=1)
        with display.show(loader, Reports()):
            assert loader.load(records()).embedded == 3
    assert release
    assert seen.getvalue().count("━") > 20  # the bar


def stand_in(**report):
    return SimpleNamespace(report=LoadReport(**report), depths=Depths())


@pytest.mark.parametrize(
    ("snapshot", "shown"),
    [
        ((240_000, 2_000_000, 250_000, 0, 890.0, 1_990), "12% 240,000 of 2,000,000, 890 chunks/s"),
        ((1_999_999, 2_000_000, 10**7, 1_234, 12_345.0, 359_999), "99% 1,999,999 of 2,000,000, "),
    ],
    ids=["usual", "longest"],
)
def test_eighty_columns_are_enough(screen, monkeypatch, snapshot, shown):
    seen = screen(terminal=True, columns=80)
    monkeypatch.setenv("NO_COLOR", "1")  # the rest of the bar is then blank
    with LoadDisplay(2_000_000, every=0) as display:
        display._tracker = SimpleNamespace(snapshot=lambda _: Snapshot(*snapshot))
        with display.show(stand_in(), Reports()):
            seen.wait_for(shown, " left", "━")
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line]
    assert max(map(len, lines)) <= 80
    drawn = next(line for line in lines if shown in line and "━" in line)
    assert drawn.startswith("━")
    assert drawn.index(shown[:3]) >= 5
    assert drawn.rstrip().endswith(Snapshot(*snapshot).line(always_failed=False))
    if "12%" in drawn:
        docs = (Path(__file__).parents[3] / "docs/loading.md").read_text()
        capture = re.search(r"<!-- terminal: progress -->\n```text\n(.*?)\n```", docs)[1]
        assert drawn.rstrip() == capture


def test_a_pipe_sees_lines_now_and_then(screen):
    seen = screen(terminal=False)
    loader, reports = stand_in(), Reports()
    with LoadDisplay(10, every=0.01) as display, display.show(loader, reports):
        seen.wait_for("quern: 0% 0 of 10, 0 chunks/s, 0 failed\n")
        loader.report = LoadReport(seen=5, chunks=5, failed=1)
        seen.wait_for("quern: 50% 5 of 10, ", " left, 1 failed\n")
        loader.depths = Depths(indexing=True, index="merge 40%")
        seen.wait_for(" left, 1 failed, indexing: merge 40%\n")
    assert reports.updates[0].done == 0
    ((last, error),) = reports.ends
    assert (last.done, error) == (5, None)


def test_a_short_load_prints_nothing_in_a_pipe(screen, client, embedder):
    seen = screen(terminal=False)
    with LoadDisplay(1, every=30) as display:
        loader = QdrantLoader(client, "docs", embedder)
        with display.show(loader, Reports()):
            loader.load([{"id": "a", "text": "A quern is a hand mill."}])
    assert seen.getvalue() == ""


def test_an_error_ends_the_report_and_is_raised(screen):
    screen(terminal=False)
    reports = Reports()
    error = ValueError("broken")
    with (
        pytest.raises(ValueError, match="broken"),
        LoadDisplay(1, every=0) as display,
        display.show(stand_in(), reports),
    ):
        raise error
    assert reports.ends[0][1] is error

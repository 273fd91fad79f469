"""What `quern load` shows on a terminal while it runs."""

import io
import sys
import time

import pytest

from quernstone_qdrant import LoadReport, QdrantLoader
from quernstone_qdrant.cli.progress import LoadDisplay, figures


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


@pytest.fixture
def screen(monkeypatch):
    def screen(*, terminal):
        made = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", made)
        return made

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return screen


def test_a_terminal_sees_the_figures_and_the_stages_of_the_running_load(screen, client, embedder):
    seen = screen(terminal=True)
    release = []

    def records():
        yield {"id": "a", "text": "A quern is a hand mill."}
        yield {"id": "b", "text": "Rain falls."}
        # the display draws on a thread of its own: the third record comes when it has shown two
        seen.wait_for("2 documents, 2 chunks, 2 embedded (", "look up 0 > embed 0 > write 0")
        release.append(True)
        yield {"id": "c", "text": "Snow falls."}

    with LoadDisplay(3) as display:
        seen.wait_for("opening")
        loader = QdrantLoader(client, "docs", embedder, batch_size=1)
        display.show(loader)
        assert loader.load(records()).embedded == 3
    assert release
    assert seen.getvalue().count("━") > 20  # the bar


def test_a_pipe_sees_nothing(screen, client, embedder):
    seen = screen(terminal=False)
    with LoadDisplay(1) as display:
        loader = QdrantLoader(client, "docs", embedder)
        display.show(loader)
        loader.load([{"id": "a", "text": "A quern is a hand mill."}])
    assert seen.getvalue() == ""


def test_figures_name_what_is_rare_only_when_it_happened():
    report = LoadReport(seen=1_200, chunks=3_000, embedded=2_000, skipped=1_000, seconds=4.0)
    usual = "1,200 documents, 3,000 chunks, 2,000 embedded (500/s), 1,000 unchanged"
    assert figures(report) == usual
    rare = LoadReport(removed=1, pruned=2, failed=3, retries=4)
    assert figures(rare).endswith("0 unchanged, 1 removed, 2 pruned, 3 failed, 4 retries")

"""The figures that `quern load` shows while it runs."""

import pytest

from quernstone_qdrant import LoadReport, QdrantLoader
from quernstone_qdrant.cli.progress import ProgressTracker, Snapshot, figures


def test_figures_name_what_is_rare_only_when_it_happened():
    report = LoadReport(seen=1_200, chunks=3_000, embedded=2_000, skipped=1_000, seconds=4.0)
    usual = "1,200 documents, 3,000 chunks, 2,000 embedded (500/s), 1,000 unchanged"
    assert figures(report) == usual
    rare = LoadReport(removed=1, pruned=2, failed=3, retries=4)
    assert figures(rare).endswith("0 unchanged, 1 removed, 2 pruned, 3 failed, 4 retries")


def test_the_rate_and_the_time_left_are_those_of_the_last_minute():
    tracker = ProgressTracker(2_000)
    tracker.snapshot(LoadReport(), now=0.0)
    # a resumed load first skips 1,000 documents in a second, then embeds two a second
    tracker.snapshot(LoadReport(seen=1_000, chunks=1_000), now=1.0)
    early = tracker.snapshot(LoadReport(seen=1_020, chunks=1_020), now=11.0)
    assert early.chunk_rate == pytest.approx(1_020 / 11)
    for now in range(21, 102, 10):
        seen = 1_000 + 2 * (now - 1)
        late = tracker.snapshot(LoadReport(seen=seen, chunks=seen), now=float(now))
    assert late.chunk_rate == 2.0
    assert late.seconds_left == (2_000 - 1_200) / 2
    assert late.line() == "60% 1,200 of 2,000, 2 chunks/s, 6:40 left, 0 failed"


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        ((0.0, 10, 0, 0, 0.0, None), "0% 0 of 10, 0 chunks/s, 0 failed"),
        ((9.99, 10, 50, 2, 5.4, 3_600.2), "99% 9 of 10, 5 chunks/s, 1:00:00 left, 2 failed"),
        ((12.0, 10, 50, 0, 5.0, 0.0), "100% 12 of 10, 5 chunks/s, 0:00 left, 0 failed"),
        ((0.0, 0, 0, 0, 0.0, None), "100% 0 of 0, 0 chunks/s, 0 failed"),
        ((7.5, None, 50, 0, 5.0, None), "7 documents, 50 chunks, 5 chunks/s, 0 failed"),
    ],
)
def test_lines(snapshot, line):
    assert Snapshot(*snapshot).line() == line


def test_one_huge_document_advances_by_chunks(client, embedder):
    text = " ".join(f"Mill {n} grinds grain." for n in range(400))
    reports = []
    loader = QdrantLoader(
        client, "docs", embedder, chunk_size=100, batch_size=8, progress=reports.append
    )
    tracker = ProgressTracker(3)
    records = [{"id": "a", "text": "Rain."}, {"id": "b", "text": text}, {"id": "c", "text": "Ice."}]
    loader.load(records)
    percents = [tracker.snapshot(report).percent for report in reports]
    assert percents == sorted(percents)
    inside = [percent for percent in percents if 100 / 3 < percent < 200 / 3]
    assert len(inside) == len(set(inside)) > 10
    assert percents[-1] == 100.0

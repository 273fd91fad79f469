"""Loads of many short rows: flat memory, and a report that can be read at any time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MAIN = [sys.executable, "-c", "from quernstone.cli import main; main()"]
ROWS = 200_000
DRY_ROWS = 2_000_000
WARM = 0.1
"""Share of the rows in which a process may reach its size."""
GROWTH = 1.25
"""Limit of the peak afterwards, as a multiple of that before."""


def write_rows(path, count):
    step = 100_000
    schema = pa.schema({"id": pa.int64(), "text": pa.string(), "year": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, step):
            numbers = range(first, min(first + step, count))
            texts = [f"Mill {n} grinds {n % 997} sacks of grain." for n in numbers]
            years = [1_000 + n % 1_000 for n in numbers]
            writer.write_table(pa.table([list(numbers), texts, years], schema=schema))


def watch(command, *, kill_at=None):
    """Run a load to its end, or kill it.

    Returns:
        Its exit code, the (share done, bytes of memory) of each look, and its last report.
    """
    looks, report = [], None
    with open("stderr.txt", "wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    while process.poll() is None:
        if os.path.exists("r.json"):
            report = orjson.loads(Path("r.json").read_bytes())  # complete at every moment
            done = (report["percent"] or 0.0) / 100
            looks.append((done, memory(process.pid)))
            if kill_at is not None and done >= kill_at:
                process.send_signal(signal.SIGKILL)
                process.wait()
                break
        time.sleep(0.05)
    return process.returncode, looks, report


def memory(pid):
    """Return the resident bytes of a process, without the pages of files that it has mapped."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except FileNotFoundError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def assert_flat(looks, since):
    """Check that memory grows no more after the next rows, where the load does the same."""
    early = max(size for done, size in looks if since <= done <= since + WARM)
    late = max(size for done, size in looks if done > since + WARM)
    curve = sorted({round(done, 1): size >> 20 for done, size in looks}.items())
    assert late < GROWTH * early, curve


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dry_run_of_very_many_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.parquet", DRY_ROWS)
    command = [*MAIN, "load", "rows.parquet", "-c", "docs", "--model", "tiny", "--dry-run"]
    command += ["--id-field", "id", "--report", "r.json", "--progress-every", "5"]
    code, looks, _ = watch(command)
    assert code == 0, Path("stderr.txt").read_text()[-2000:]
    report = orjson.loads(Path("r.json").read_bytes())
    assert (report["state"], report["dry_run"]) == ("finished", True)
    assert (report["seen"], report["chunks"], report["failed"]) == (DRY_ROWS, DRY_ROWS, 0)
    assert_flat(looks, 0.0)
    assert " of 2,000,000, " in Path("stderr.txt").read_text()
    assert not os.path.exists("qdrant-data")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_load_of_many_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("rows.parquet", ROWS)
    command = [*MAIN, "load", "rows.parquet", "-c", "docs", "--edge", "edge", "--model", "tiny"]
    command += ["--id-field", "id", "--report", "r.json", "--progress-every", "5"]
    command += ["--dimensions", "32", "--set", "m=4"]
    code, looks, report = watch(command, kill_at=0.5)
    assert code == -signal.SIGKILL
    assert_flat(looks, 0.0)
    assert report["state"] == "running"
    assert 0 < report["embedded"] < ROWS
    os.remove("r.json")
    code, looks, report = watch(command)
    assert code == 0, Path("stderr.txt").read_text()[-2000:]
    report = orjson.loads(Path("r.json").read_bytes())
    assert (report["state"], report["points"]) == ("finished", ROWS)
    assert report["embedded"] + report["skipped"] == ROWS
    assert report["skipped"] > 0
    assert_flat(looks, report["skipped"] / ROWS)  # it embeds from there on
    assert " of 200,000, " in Path("stderr.txt").read_text()

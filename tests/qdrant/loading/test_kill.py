"""A load that is killed many times ends with the collection of an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server on Windows")
@pytest.mark.parametrize("target", ["embedded", "edge"])
@pytest.mark.parametrize(
    ("kills", "records"),
    [
        pytest.param(30, 5_000, marks=pytest.mark.slow),
        pytest.param(300, 50_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_kills(target, kills, records):
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--target", target]
    done = subprocess.run(
        [*command, "--records", str(records), "--kills", str(kills)],
        capture_output=True,
        text=True,
        timeout=20 * kills,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == kills
    assert result["same"]
    assert result["points"] == result["chunks"] == records
    assert result["embedded_by_the_last"] + result["skipped_by_the_last"] == records
    assert result["most_embedded_twice_after_a_kill"] <= result["allowed"]

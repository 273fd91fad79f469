"""A load that is killed thirty times ends with the collection of one that was left in peace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server on Windows")
@pytest.mark.parametrize("target", ["embedded", "edge"])
def test_thirty_kills(target):
    if target == "edge":
        pytest.importorskip("qdrant_edge")
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--target", target]
    done = subprocess.run(
        [*command, "--records", "5000", "--kills", "30"],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 30
    assert result["same"]
    assert result["points"] == result["chunks"] == 5000
    assert result["embedded_by_the_last"] + result["skipped_by_the_last"] == 5000
    assert result["most_embedded_twice_after_a_kill"] <= result["allowed"]

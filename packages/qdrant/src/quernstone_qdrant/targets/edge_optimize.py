"""Build the index of one shard. `EdgeTarget` runs this file in a separate process.

Edge's `optimize` holds the GIL until it returns, possibly for minutes. In the caller's process it
would block every other thread, the progress display and Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qdrant_edge import EdgeShard

_PR_SET_PDEATHSIG = 1
"""Option of `prctl(2)`."""
_PROGRESS_SECONDS = 0.5
"""Seconds between two calls of `progress`."""


def optimize_in_process(shard: Path, timeout: float, progress: Callable[[str], None]) -> str | None:
    """Run this file and wait until the index is built.

    Args:
        shard: Folder of the shard, which this process must not have open.
        timeout: Seconds to wait; may be infinite.
        progress: Called twice a second with an empty string, because Edge does not report its
            progress. If it raises, the process is ended and the exception propagates.

    Returns:
        The reason of a failure; None if the index is built.

    Raises:
        TimeoutExpired: The index is not built in time.
    """
    command = [sys.executable, __file__, str(shard), str(os.getpid())]
    deadline = time.monotonic() + timeout
    # A session of its own, so that Ctrl-C reaches only this process, which then ends the other.
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while True:
            left = deadline - time.monotonic()
            try:
                _, stderr = process.communicate(timeout=max(0.0, min(left, _PROGRESS_SECONDS)))
                break
            except subprocess.TimeoutExpired:
                try:
                    progress("")
                    if left <= 0:
                        raise
                except BaseException:
                    process.kill()
                    raise
    if process.returncode == 0:
        return None
    if process.returncode == -getattr(signal, "SIGBUS", 0):
        return "the disk is full; free some space, and the next load continues indexing"
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else f"its process ended with status {process.returncode}"


def main(shard: str, parent: int) -> None:
    """Index all points that are not indexed yet.

    Args:
        shard: Folder of the shard.
        parent: Id of the waiting process. On Linux, this process ends with it. Otherwise an orphan
            would keep the shard locked.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    opened = EdgeShard.load(shard)
    opened.optimize()
    opened.flush()
    opened.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Build the index of one shard. `EdgeTarget` runs this file in a separate process.

Edge's `optimize` holds the GIL until it returns, possibly for minutes. In the caller's process it
would block every other thread, the progress display and Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from qdrant_edge import EdgeShard

_PR_SET_PDEATHSIG = 1
"""Option of `prctl(2)`."""


def main(shard: str, parent: int) -> None:
    """Index all points that are not indexed yet.

    Args:
        shard: Folder of the shard.
        parent: Id of the waiting process. On Linux, this process ends with it: otherwise the shard
            would stay locked for no visible reason.
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

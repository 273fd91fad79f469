"""Builds the index of one shard. `EdgeTarget` runs this file as a process of its own.

Edge's `optimize` holds Python's lock from its start to its end, which may be minutes: in the
process of the caller no other thread could run, no progress be shown, and no Ctrl-C be heard.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from qdrant_edge import EdgeShard

_PR_SET_PDEATHSIG = 1
"""Of `prctl(2)`."""


def main(shard: str, parent: int) -> None:
    """Index what is not indexed.

    Args:
        shard: Folder of the shard.
        parent: Id of the process that waits. Without it nobody would know why the shard is in use,
            so this process ends when that one does, where the system (Linux) can do it.
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

"""Keep Python's garbage collector fast during a load."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY_RECORDS = 10_000
"""Records after which a load freezes objects. The first full collection after that walks them."""


@contextmanager
def freeze_existing_objects() -> Iterator[None]:
    """Exclude all existing objects from garbage collection inside the block.

    A load allocates so many short-lived records that full collections run often. Each one walks
    every object in the process, a third of a million with a model and its libraries, and stops all
    threads for 0.2 s, including those that feed the GPU.

    Does nothing if the program has already called `gc.freeze`: `gc.unfreeze` would undo that.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

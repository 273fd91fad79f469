"""Python's garbage collector, kept from the objects that a load has nothing to do with."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_objects() -> Iterator[None]:
    """Leave what is there already out of collections.

    The records of a load live for seconds, and of every ten thousand of them the collector thinks
    that it is time to walk all objects of the process: a third of a million with a model and its
    libraries, for 0.2 s in which every thread stands still, the one that feeds the accelerator
    included. A program that froze its objects itself is left alone.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

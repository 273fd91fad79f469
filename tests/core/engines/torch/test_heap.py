"""Memory that goes back to the system over a long job."""

import os
import platform
from pathlib import Path

import pytest

from quernstone import Embedder
from quernstone.engines.torch import heap
from quernstone.engines.torch.heap import Heap


@pytest.fixture
def trims(monkeypatch):
    """Gets one entry for each trim."""
    made = []
    monkeypatch.setattr(heap, "_malloc_trim", lambda: made.append)
    monkeypatch.setattr(heap, "_TOKENS", 100)
    return made


def resident_bytes():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to")
def test_what_was_freed_between_objects_that_stay_is_given_back():
    blocks = [bytearray(b"x" * 100_000) for _ in range(2000)]
    kept = blocks[::20]
    del blocks
    before = resident_bytes()
    Heap().trim()
    assert before - resident_bytes() > 100_000_000
    assert all(block == b"x" * 100_000 for block in kept)


def test_only_every_so_many_tokens(trims):
    ours = Heap()
    counts = []
    for tokens in (60, 39, 1, 50, 50, 200, 10):
        ours.before(tokens)
        counts.append(len(trims))
    assert counts == [0, 0, 0, 1, 1, 2, 3]


def test_an_engine_trims_between_batches_and_when_it_ends(trims):
    with Embedder("tiny", device="cpu", max_batch_tokens=64) as embedder:
        embedder.embed_documents([f"mill {n}" for n in range(100)])
        during = len(trims)
        assert during > 1
    assert len(trims) == during + 1


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert heap._malloc_trim() is None
    Heap().trim()

"""Callers that are ready at about the same time wait for each other, and for nobody else."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

from quernstone import Embedder
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.runtime import coalescing
from quernstone.runtime.coalescing import others_are_ready


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine must not end a wait early."""
    monkeypatch.setattr(coalescing, "_MAX_SECONDS", 60)


@pytest.fixture
def released():
    return []


async def call(name, released):
    await others_are_ready()
    released.append(name)


async def test_a_burst_that_takes_some_turns_is_released_together(released):
    tasks = []
    for name in range(5):
        tasks.append(asyncio.create_task(call(name, released)))
        await asyncio.sleep(0)
        assert not released
    await asyncio.gather(*tasks)
    assert released == [0, 1, 2, 3, 4]


async def test_one_caller_waits_for_few_turns_only(released):
    task = asyncio.create_task(call("alone", released))
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.done()


async def test_callers_without_end_hold_nobody_up(released, monkeypatch):
    monkeypatch.setattr(coalescing, "_MAX_SECONDS", 0.001)
    first = asyncio.create_task(call("first", released))
    others = []
    while not first.done():
        others.append(asyncio.create_task(call("another", released)))
        await asyncio.sleep(0)
        assert len(others) < 100_000
    await asyncio.gather(*others)
    assert released[0] == "first"


async def test_a_cancelled_caller_does_not_keep_the_others(released):
    tasks = [asyncio.create_task(call(name, released)) for name in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert released == [0, 2]


def test_loops_are_independent_and_forgotten(released):
    loops = []
    for name in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(call(name, released))
        loop.close()
        loops.append(weakref.ref(loop))
    del loop
    gc.collect()
    assert released == [0, 1]
    assert [found() for found in loops] == [None, None]


@pytest.mark.parametrize(("chars", "inline"), [(500, True), (5000, False)])
async def test_the_event_loop_encodes_short_texts_only(chars, inline, monkeypatch):
    threads, encode = [], Tokenizer.ids

    def ids(self, texts):
        threads.append(threading.current_thread())
        return encode(self, texts)

    with Embedder("tiny") as embedder:
        expected = embedder.embed_documents(["ab c " * (chars // 5)])
        monkeypatch.setattr(Tokenizer, "ids", ids)
        found = await embedder.aembed_documents(["ab c " * (chars // 5)])
    assert (threading.current_thread() in threads) == inline
    assert np.array_equal(found, expected)

"""Models in forked children. Every case forks a program of its own, never pytest."""

import os

import pytest
from tests.support.embedding_server import StubServer
from tests.support.forks import run_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")

LOCAL = ("torch", "transformers", "sentence-transformers")
SLOW_LOCAL = [pytest.param(engine, marks=pytest.mark.slow) for engine in LOCAL]

SETUP = """
import os
import sys
import threading

import numpy as np
from tests.support.forks import in_child

from quernstone import Embedder, Reranker

engine, endpoint = sys.argv[1:]
settings = {"engine": engine, "dtype": "float32"}
if engine == "remote":
    settings = {"engine": engine, "engine_options": {"endpoint": endpoint, "dialect": "vllm"}}
model = "stub-model" if engine == "remote" else "tiny"
# Enough that the tokenizer and OpenMP use threads.
texts = [f"a hand mill grinds grain {number} " * (1 + number % 7) for number in range(20)]
embedder = Embedder(model, **settings)


def compute(embedder=embedder):
    return embedder.embed_documents(texts)


def same(rows):
    np.testing.assert_allclose(rows, compute(), atol=1e-6)
"""


def run(program, engine="torch", endpoint="", *, setup=SETUP):
    """Run a program, in which tokenizers and OpenMP use threads."""
    environment = {"TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "2"}
    return run_program(setup + program, engine, endpoint, **environment)


@pytest.fixture
def server():
    with StubServer("vllm") as stub:
        yield stub


@pytest.mark.parametrize("engine", ["torch", "remote", *SLOW_LOCAL[1:]])
def test_a_child_computes_what_its_parent_does(engine, server):
    program = """
unused = in_child(compute)  # before the parent used the model
same(unused)
same(in_child(compute))
same(in_child(lambda: compute(Embedder(model, **settings))))  # an object of the child
same(in_child(lambda: in_child(compute)))  # a child of a child


def twice():
    compute()
    embedder.close()
    with Embedder(model, **settings) as other:
        return compute(other)


same(in_child(twice))
assert "TOKENIZERS_PARALLELISM" not in in_child(lambda: dict(os.environ))
assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
os.environ["TOKENIZERS_PARALLELISM"] = "False"
assert in_child(lambda: os.environ["TOKENIZERS_PARALLELISM"]) == "False"
rows = embedder.stream(iter(texts * 300))
next(rows)
try:
    in_child(lambda: list(rows))
    raise AssertionError("the child has the results of its parent")
except RuntimeError as error:
    assert "EngineError: this process was forked during the call" in str(error)
in_child(rows.close)
rows.close()
"""
    run(program, engine, server.url)


@pytest.mark.parametrize("engine", ["remote", *SLOW_LOCAL])
def test_forks_while_threads_of_the_parent_compute(engine, server):
    program = """
expected, done = compute(), threading.Event()


def work():
    while not done.is_set():
        compute()


threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = in_child(compute)
    np.testing.assert_allclose(child, expected, atol=1e-6)
done.set()
for thread in threads:
    thread.join()
same(expected)
"""
    run(program, engine, server.url)


# Without torch, which takes seconds to import.
STAND_INS = """
import os
import sys
import threading
import time

import numpy as np
from tests.support.forks import in_child

from quernstone.errors import EngineError
from quernstone.runtime import queue, sharing, worker
from quernstone.types import EngineConfig, EngineInfo, TextInput


class Engine:
    width = 1

    def __init__(self, device="cpu", survives_fork=True):
        self.info = EngineInfo(
            engine="fake", device=device, dtype="float32", attention="none", max_batch_tokens=9
        )
        self.survives_fork = survives_fork
        self.lock, self.started = threading.Lock(), threading.Event()
        self.seconds, self.process = 0.0, os.getpid()

    def run(self, batch, *, precise=False):
        with self.lock:
            self.started.set()
            time.sleep(self.seconds)
            return np.array([[len(each.text)] for each in batch], np.float32)

    def close(self):
        self.process = None


def rows(backend):
    return backend.submit([TextInput("abc")]).result().tolist()


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def test_a_fork_waits_for_the_batch_of_another_thread():
    program = """
engine = Engine()
one = worker.Worker(lambda: engine)
engine.seconds = 0.5
running = one.submit([TextInput("abcd")])
engine.started.wait()
assert in_child(lambda: rows(one)) == [[3.0]]
assert running.result().tolist() == [[4.0]]


def slow_load():
    loading.set()
    time.sleep(0.5)
    return Engine()


loading = threading.Event()
config = EngineConfig(task="embed", model="a", engine="torch")
start = lambda: worker.Worker(slow_load)
thread = threading.Thread(target=sharing.acquire, args=(config, start))
thread.start()
loading.wait()
assert in_child(lambda: rows(sharing.acquire(config, start))) == [[3.0]]
thread.join()
sharing.release(config)
"""
    run(program, setup=STAND_INS)


def test_an_engine_that_a_child_cannot_use_is_an_error_that_names_the_fix():
    program = """
config = EngineConfig(task="embed", model="a", engine="torch")
for devices, survives, why in [
    (["cuda:0"], True, "runs on 'cuda:0'"),
    (["cuda:0", "cuda:1"], True, "runs on 'cuda:0,cuda:1'"),
    (["cpu"], False, "runs on 'cpu'"),
    (["cpu"], True, "was busy"),
]:
    engines = [Engine(device, survives) for device in devices]
    engine = engines[0]
    loads = [lambda one=one: one for one in engines]
    old = sharing.acquire(config, lambda: worker.Worker(*loads))
    assert rows(old) == [[3.0]]
    if why == "was busy":
        queue._FORK_PATIENCE = 0.01
        engine.seconds = 0.5
        engine.started.clear()
        running = old.submit([TextInput("abcd")])
        engine.started.wait()

    def child():
        message = error_of(lambda: rows(old))
        assert message.startswith("EngineError: the model was loaded before this"), message
        assert why in message, message
        assert "after the fork, or start processes with the method `spawn`" in message
        new = sharing.acquire(config, lambda: worker.Worker(Engine))  # loads again
        assert new is not old
        found = rows(new)
        sharing.release(config)
        sharing.release(config)
        assert all(one.process for one in engines), "the child closed an engine of its parent"
        return found

    assert in_child(child) == [[3.0]]
    sharing.release(config)
    assert not any(one.process for one in engines)
"""
    run(program, setup=STAND_INS)


def test_locks_that_other_threads_hold_in_a_fork(server):
    program = """
from quernstone.lazy import Lazy
from quernstone.runtime import sharing

options = {**settings["engine_options"], "rendered_by": "client"}
reranker = Reranker(model, engine=engine, max_length=120, engine_options=options)
lazy = Lazy(lambda: embedder)


def work():
    with Embedder(model, **settings) as other:
        compute(other)
    return [compute(lazy.get({})).tolist(), reranker.score([("grain", texts[6])]).tolist()]


expected = work()
locks = [sharing._shared_lock, *(entry.lock for entry in sharing._shared.values())]
for owned in (
    lazy._locks,
    embedder._session._usage_locks,
    reranker._session._usage_locks,
    embedder._session.backend._transport._locks,
    reranker._session.backend._transport._locks,
):
    locks += owned.values()
[counting] = reranker._session.backend._lengths._counting.values()
held, release = threading.Event(), threading.Event()


def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    release.wait()
    for lock in locks:
        lock.release()


thread = threading.Thread(target=hold)
thread.start()
held.wait()
counting._locked = True
try:
    assert in_child(work) == expected
finally:
    counting._locked = False
    release.set()
    thread.join()
"""
    run(program, "remote", server.url)


def test_a_child_of_a_process_that_used_cuda_says_so():
    """The child cannot use CUDA, even for a model of its own. `auto` must not choose the CPU."""
    program = """
import torch

import quernstone.errors


def new(device):
    return compute(Embedder(model, **settings, device=device, max_batch_tokens=9999))


def child():
    torch.cuda._is_in_bad_fork = lambda: True  # as torch says after a fork with a CUDA context
    for device in ("auto", "cuda", "cuda:0"):
        try:
            new(device)
            raise AssertionError(f"{device} chose a device")
        except quernstone.errors.EngineError as error:
            assert "was forked from one that used CUDA" in str(error), error
            assert f"(`device` is '{device}')" in str(error), error
            assert "load the model after the fork, start processes with the meth" in str(error)
    same(new("cpu"))
    torch.cuda.device_count = lambda: 0  # a machine without a GPU, where torch looked for one
    same(new("auto"))


torch.cuda.device_count = lambda: 1
in_child(child)
"""
    run(program)

"""What is chosen, and called, on CUDA: decided by numbers that a device would give."""

import re
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tests.support import gpu_stand_ins

from quernstone import ConfigError, Embedder, EngineMemoryError
from quernstone.bench.machine import peak_memory
from quernstone.bench.matrices import layer_shapes
from quernstone.checkpoints.checkpoint import resolve
from quernstone.doctor.environment import describe_device
from quernstone.engines import each_device
from quernstone.engines.placement import choose_devices, memory_errors
from quernstone.engines.torch import engine
from quernstone.engines.torch.graphs import CudaRecorder
from quernstone.engines.torch.transfer import PinnedTransfer, Transfer, choose_transfer
from quernstone.model import session_of
from quernstone.qwen3.fp8 import can_compute_fp8
from quernstone.types import EngineConfig, EngineInfo

CUDA = torch.device("cuda", 1)
CONFIG = resolve("tiny", "embed", None).decoder_config()


def having(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("capability", "can"), [((8, 6), False), ((8, 9), True), ((9, 0), True), ((10, 0), True)]
)
def test_fp8(monkeypatch, capability, can):
    having(monkeypatch, capability)
    assert can_compute_fp8(CUDA) == can
    assert not can_compute_fp8(torch.device("cpu"))


def test_the_way_to_a_device():
    assert isinstance(choose_transfer(CUDA), PinnedTransfer)
    assert type(choose_transfer(torch.device("cpu"))) is Transfer
    assert type(choose_transfer(torch.device("mps"))) is Transfer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=str,
)
def test_out_of_memory(error):
    with pytest.raises(EngineMemoryError), memory_errors(7):
        raise error


def test_out_of_memory_keeps_nothing_of_the_failed_batch():
    """Or its halves would not fit either."""
    kept = []

    def layer():
        activations = torch.zeros(3)
        kept.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EngineMemoryError) as caught, memory_errors(7):
        layer()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert kept[0]() is None


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors(7):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_the_floor_multiplies_as_the_engine_does():
    apart, joint = (layer_shapes(CONFIG, joint=joint) for joint in (False, True))
    hidden, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    assert [shape for shape in apart if shape not in joint] == [(inner, hidden)] * 2
    assert [shape for shape in joint if shape not in apart] == [(2 * inner, hidden)]


class Calls:
    """Stands in for `torch.cuda`'s streams and graphs, and notes what is asked of them."""

    def __init__(self, monkeypatch, free=1 << 34):
        self.made = []
        self.current = "current"
        calls = self

        class Stream:
            def __init__(self, name):
                self.name = name

            def wait_stream(self, other):
                calls.made.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self):
                calls.made.append("replay")

        @contextmanager
        def stream(which):
            before, calls.current = calls.current, which.name
            try:
                yield
            finally:
                calls.current = before

        @contextmanager
        def graph(made, pool, stream, capture_error_mode):
            assert (pool, capture_error_mode) == ("pool", "thread_local")
            calls.current = stream.name
            calls.made.append("record")
            yield
            calls.current = "current"  # not reached after an error, as in torch

        for name, value in {
            "Stream": lambda device: Stream("side"),
            "CUDAGraph": Graph,
            "stream": stream,
            "graph": graph,
            "graph_pool_handle": lambda: "pool",
            "current_stream": lambda device: Stream("current"),
            "mem_get_info": lambda device: (free - 3 * calls.made.count("record"), 1 << 35),
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_graph_is_recorded_beside_the_current_stream(monkeypatch):
    calls = Calls(monkeypatch)

    def compute():
        calls.made.append(f"compute on {calls.current}")

    replay, size = CudaRecorder(CUDA)(compute)
    assert calls.made == [
        "side waits for current",
        "compute on side",
        "current waits for side",
        "record",
        "compute on side",
    ]
    assert size == 3
    replay()
    assert calls.made[5:] == ["replay"]
    assert calls.current == "current"


def test_a_recording_that_fails_leaves_the_current_stream(monkeypatch):
    calls = Calls(monkeypatch)

    def compute():
        if "record" in calls.made:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaRecorder(CUDA)(compute)
    assert calls.current == "current"


def test_nothing_is_recorded_when_memory_is_short(monkeypatch):
    calls = Calls(monkeypatch, free=500 << 20)
    with pytest.raises(RuntimeError, match="500 MiB are free, and 512 MiB are required"):
        CudaRecorder(CUDA)(lambda: calls.made.append("compute"))
    assert "record" not in calls.made
    assert calls.current == "current"


def test_a_batch_travels_in_one_copy(monkeypatch):
    copies = []

    class Here(PinnedTransfer):
        def _pinned(self, like):
            copies.append(like.shape)
            return torch.empty_like(like)

    sent = Here(torch.device("cpu")).upload(
        [np.arange(5, dtype=np.int32), np.arange(2, dtype=np.int32)], [np.array([7], np.int32)]
    )
    assert [each.tolist() for each in sent] == [[0, 1, 2, 3, 4], [0, 1], [7]]
    assert copies == [(8,)]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("cuda:all", ["cuda:0", "cuda:1"]),
        ("cuda:1,cuda:0", ["cuda:1", "cuda:0"]),
        ("cuda, cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("auto", ["auto"]),
    ],
)
def test_lists_of_devices(two_gpus, name, devices):
    assert choose_devices(name) == devices


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cuda:0,cpu", "'cpu' is not an NVIDIA GPU: a list names GPUs only, such as cuda:0,cuda:1"),
        ("mps,cuda:0", "'mps' is not an NVIDIA GPU"),
        ("cuda:0,", "'' is not an NVIDIA GPU"),
        ("cuda:0,cuda:0", "names cuda:0 twice: name it once"),
        ("cuda,cuda:0", "names cuda:0 twice"),
        ("cuda:0,cuda:2", "device 'cuda:2' does not exist: this machine has 2 of type 'cuda'"),
        ("cuda:0,cuda:x", "unknown device 'cuda:x'; use auto, cpu, cuda, cuda:1"),
    ],
)
def test_wrong_lists_of_devices(two_gpus, name, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        choose_devices(name)


@pytest.mark.parametrize("name", ["cuda:all", "cuda:0,cuda:1"])
def test_lists_of_devices_without_a_gpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="does not exist: this machine has 0 of type 'cuda'"):
        Embedder("tiny", device=name)


def test_vllm_takes_no_list():
    config = EngineConfig(task="embed", model="a", engine="vllm", device="cuda:0,cuda:1")
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        each_device(config)


@pytest.mark.parametrize("deterministic", [False, True])
def test_vectors_do_not_depend_on_the_device_that_computes_them(two_gpus, deterministic):
    """Two copies of the real engine, on stand-ins."""
    texts = [f"grain {number} " * (1 + number % 9) for number in range(40)]
    settings = {"dtype": "float32", "max_batch_tokens": None if deterministic else 64}
    with pytest.MonkeyPatch.context() as patch:
        gpu_stand_ins.use(patch)
        patch.setattr(engine, "choose_device", lambda name: torch.device("cpu"))
        with (
            Embedder("tiny", device="cuda:0", deterministic=deterministic, **settings) as one,
            Embedder("tiny", device="cuda:all", deterministic=deterministic, **settings) as both,
        ):
            assert session_of(both).backend.engines == 2
            computed = []
            for number, runner in enumerate(session_of(both).backend._runners):

                def launched(batch, number=number, launch=runner.engine.launch):
                    computed.append(number)
                    return launch(batch)

                patch.setattr(runner.engine, "launch", launched)
            expected = one.embed_documents(texts)
            for _ in range(20):
                np.testing.assert_array_equal(both.embed_documents(texts), expected)
                if len(set(computed)) == 2:
                    break
            assert len(set(computed)) == 2


def test_several_devices_in_reports(monkeypatch):
    peaks = {"cuda:0": 3, "cuda:1": 5}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device[-1]}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    info = EngineInfo(
        engine="torch",
        device="cuda:0,cuda:1",
        dtype="bfloat16",
        attention="triton",
        max_batch_tokens=9,
    )
    assert describe_device(info) == "cuda:0 (card 0), cuda:1 (card 1)"
    assert peak_memory(info) == 5

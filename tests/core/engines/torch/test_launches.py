"""What a batch asks of a GPU: how many operators, and nothing that waits, uploads or compiles.

The engine is the real one, on a stand-in for CUDA. Kernels are operators of torch, so that those of
a batch can be counted; views launch nothing.
"""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from tests.support import gpu_stand_ins
from torch.utils._python_dispatch import TorchDispatchMode

from quernstone import Embedder, kernels
from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.torch.engine import TorchEngine
from quernstone.qwen3.decoder import DecoderLayer, LastAttention
from quernstone.qwen3.elementwise import run_all
from quernstone.types import Encoded, EngineConfig, Prefix


class Operators(TorchDispatchMode):
    """Counts operators other than views and allocations, and keeps their inputs."""

    def __init__(self):
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert not name.startswith(gpu_stand_ins.HostReads.forbidden), f"{name} waits or uploads"
        aliases = [each.alias_info for each in func._schema.returns]
        is_view = any(each is not None and not each.is_write for each in aliases)
        if not is_view and not name.startswith(("empty", "new_empty")):
            self.calls.append((name, args))
        return func(*args, **kwargs or {})

    def names(self):
        return [name for name, _ in self.calls]


def ids(length, first):
    return ((np.arange(length) * 31 + first) % 1000).astype(np.int32)


def texts(prefixes, documents, *, length=30, of_prefix=40):
    """Documents that share prefixes, with a common prefix of these; or without any."""
    if not prefixes:
        return [Encoded(ids(length + n, n)) for n in range(documents)]
    parent = Prefix(ids(20, 3))
    shared = [
        Prefix(np.concatenate((parent.ids, ids(of_prefix, 100 + n))), parent)
        for n in range(prefixes)
    ]
    return [Encoded(ids(length, n), shared[n % prefixes]) for n in range(documents)]


def load(monkeypatch, task="rerank", dtype="float32", record=None):
    gpu_stand_ins.use(monkeypatch, record=record)
    monkeypatch.setattr("quernstone.engines.torch.engine.can_compute_fp8", lambda device: True)
    monkeypatch.setattr("quernstone.engines.torch.engine._PASS_TOKENS", 0)
    checkpoint = resolve("tiny", task, None)
    config = EngineConfig(
        task=task,
        model=str(checkpoint.folder),
        engine="torch",
        dtype=dtype,
        device="cpu",
        max_batch_tokens=1 << 16,
    )
    return TorchEngine(config, checkpoint, Tokenizer(checkpoint.folder, checkpoint.vocab_size))


@pytest.fixture
def layers(monkeypatch):
    """The operators of each layer but the last of a pass, which selects rows."""
    found = []
    layer = DecoderLayer.__call__

    def counted(self, *inputs):
        with Operators() as operators:
            out = layer(self, *inputs)
        if not isinstance(self.self_attn, LastAttention):
            found.append(operators.names())
        return out

    monkeypatch.setattr(DecoderLayer, "__call__", counted)
    return found


@pytest.mark.parametrize(
    ("task", "dtype", "prefixes", "length", "limit"),
    [
        ("embed", "bfloat16", 0, 30, 12),
        ("embed", "fp8", 0, 30, 12),
        ("rerank", "bfloat16", 1, 30, 13),
        ("rerank", "bfloat16", 9, 30, 13),  # copied before the keys
        ("rerank", "bfloat16", 9, 5, 13),  # in a call of their own
    ],
)
def test_operators_of_a_layer(monkeypatch, layers, task, dtype, prefixes, length, limit):
    engine = load(monkeypatch, task, dtype)
    documents = 18 if length > 5 else 63
    engine.run(texts(prefixes, documents, length=length))
    passes = 3 if prefixes else 1  # the parent of the prefixes, these, and the documents
    count = resolve("tiny", task, None).decoder_config().num_hidden_layers
    assert len(layers) == passes * (count - 1)
    assert max(map(len, layers)) <= limit
    merges = "quernstone::merge_" in layers[-1]
    assert merges == (prefixes > 0 and length == 5)


def test_operators_of_a_batch_do_not_depend_on_the_number_of_prefixes(monkeypatch):
    counts = []
    for prefixes in (3, 12):
        engine = load(monkeypatch)
        with Operators() as operators:
            engine.launch(texts(prefixes, 24))
        counts.append(Counter(operators.names()))
    assert counts[0] == counts[1]
    assert counts[0]["cat"] <= 2  # once for all layers


def test_nothing_is_sent_while_a_batch_is_launched_but_by_the_transfer(monkeypatch):
    engine = load(monkeypatch)
    for name in ("from_numpy", "tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *inputs, **more: pytest.fail("uploads"))
    with Operators():
        pending = [engine.launch(texts(count, 12)) for count in (3, 2, 0)]
    monkeypatch.undo()
    assert all(np.isfinite(wait()).all() for wait in pending)


# What a Triton kernel is not compiled for, see `fused`.
VARYING = {"quernstone::rotate_and_join_": {4}, "quernstone::merge_": {1, 3}}


def compiled_for(calls):
    """Return what each Triton kernel is compiled for: shapes, dtypes, alignments."""
    found = set()
    for name, args in calls:
        if not name.startswith("quernstone::"):
            continue
        key = []
        for place, x in enumerate(args):
            if not isinstance(x, torch.Tensor):
                key.append(x)
            elif place in VARYING.get(name, ()):
                key.append(x.dtype)
            else:
                aligned = x.data_ptr() % 16 == 0 and x.stride(0) % 16 == 0
                key.append((x.dtype, *x.shape[1:], *x.stride()[1:], aligned))
        found.add((name, *key))
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_all_kernels_are_compiled_when_a_model_is_loaded(monkeypatch, dtype):
    engine = load(monkeypatch, dtype=dtype, record=gpu_stand_ins.Recorder())
    config = resolve("tiny", "rerank", None).decoder_config()
    with torch.inference_mode(), Operators() as loading:
        run_all(kernels.ops, config, torch.device("cpu"), torch.bfloat16, fp8=dtype == "fp8")
    with Operators() as requests:
        for prefixes, documents, length in ((0, 5, 33), (3, 12, 17), (9, 63, 5), (1, 1, 300)):
            engine.run(texts(prefixes, documents, length=length))
        engine._graphs._missing = engine._graphs._missing[-3:]
        while engine.prepare():
            pass
    used = compiled_for(requests.calls)
    assert {name for name, *_ in used} >= {"quernstone::rotate_and_join_", "quernstone::merge_"}
    assert used <= compiled_for(loading.calls)


def test_prefixes_of_few_documents_are_written_out(monkeypatch):
    engine = load(monkeypatch)
    plain = texts(3, 4)  # one document for two of the prefixes, two for the other
    expected = engine.run(plain)
    assert [len(prefix) for prefix, _ in engine._prefixes] == [20, 60]  # parent, and the one of two
    monkeypatch.setattr("quernstone.engines.torch.engine._PASS_TOKENS", 60)
    other = load(monkeypatch)
    monkeypatch.setattr("quernstone.engines.torch.engine._PASS_TOKENS", 60)
    np.testing.assert_allclose(other.run(plain), expected, atol=1e-5)
    assert not other._prefixes


def test_the_first_texts_of_a_call_are_computed_while_the_others_are_tokenized(monkeypatch):
    """As on a GPU; on a CPU, both would compete for the cores."""
    documents = [f"{n % 500} ounces of grain" for n in range(600)]
    with Embedder("tiny", dtype="float32") as embedder:
        expected = embedder.embed_documents(documents)
    gpu_stand_ins.use(monkeypatch)
    launched, parts = threading.Event(), []
    launch, tokenize = TorchEngine.launch, Tokenizer.ids

    def ids(tokenizer, texts):
        parts.append(len(texts))
        if len(parts) == 2:
            assert launched.wait(10)
        return tokenize(tokenizer, texts)

    monkeypatch.setattr(TorchEngine, "launch", lambda *inputs: launched.set() or launch(*inputs))
    with Embedder("tiny", dtype="float32", max_batch_tokens=1024) as embedder:
        monkeypatch.setattr(Tokenizer, "ids", ids)
        found = embedder.embed_documents(documents)
        assert parts == [256, 344]
        assert embedder.usage.inputs == 600
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found[:100], found[500:])  # equal texts in different parts

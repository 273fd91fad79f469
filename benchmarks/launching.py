"""Host time to start a batch on a GPU without a CUDA graph, measured without a GPU.

`python -m benchmarks.launching` runs the engine on a model of 28 layers as if it were on CUDA.
Triton compiles the real kernels, whose driver does nothing. Matrix products and attention, which
libraries start, only allocate their results. So what is left is what Quernstone and Triton need,
once with kernels that are started directly and once by Triton.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import typer
from tests.support import gpu_stand_ins, triton_stand_in
from tests.support.checkpoints import random_checkpoint
from torch import Tensor

from quernstone.attention.sdpa import sdpa_maker
from quernstone.attention.varlen import varlen_maker
from quernstone.checkpoints.checkpoint import resolve
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.engines.torch import engine
from quernstone.kernels import launch, ops
from quernstone.kernels.compiled import Kernel
from quernstone.qwen3.linear import Linear
from quernstone.types import Encoded, EngineConfig

_LAYERS = 28
# The shape does not matter to the host, and this one is quickly written.
_WIDTH = 8


def main(repeats: int = 200) -> None:
    """Print milliseconds per batch."""
    triton_stand_in.use().notes = False
    for name in ops.DEFINITIONS:
        ops._LIBRARY.impl(name, getattr(launch, name), "CPU")
    batch = [Encoded(np.arange(n, n + 9, dtype=np.int32)) for n in range(4)]
    times: dict[bool, list[float]] = {True: [], False: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as monkeypatch,
        patch.object(Linear, "__call__", lambda self, x: x.new_empty(len(x), len(self._weight))),
        patch.object(Linear, "add", lambda _self, _x, other: other),
        patch("quernstone.qwen3.linear._can_pack", lambda _weight: False),
    ):
        running = _engine(Path(folder), monkeypatch)
        for directly in (True, False) * (repeats + 1):
            Kernel.starts_directly = directly
            start = time.perf_counter()
            running.launch(batch)
            times[directly].append(time.perf_counter() - start)
        running.close()
    direct, by_triton = (float(np.median(each[1:])) * 1e3 for each in times.values())
    print(
        f"{direct:.2f} ms of the host for {_LAYERS} layers, without products and attention; "
        f"{by_triton:.2f} ms if Triton starts the kernels ({by_triton / direct:.2f} times)"
    )


def _engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> engine.TorchEngine:
    """Load an engine as on CUDA, whose attention only allocates its results."""
    tiny = resolve("tiny", "embed", None).folder
    random_checkpoint(folder, "embedding-0.6b", layers=_LAYERS, width=_WIDTH, tokenizer=tiny)
    checkpoint = resolve(str(folder), "embed", None)
    gpu_stand_ins.use(monkeypatch)
    makers = iter([varlen_maker("none", _attention), sdpa_maker(torch.device("cpu"))])
    monkeypatch.setattr(engine, "choose_attention", lambda *_, **__: next(makers))
    config = EngineConfig(
        task="embed",
        model=str(folder),
        engine="torch",
        dtype="float32",
        device="cpu",
        max_batch_tokens=1 << 16,
    )
    return engine.TorchEngine(config, checkpoint, Tokenizer(folder, checkpoint.vocab_size))


def _attention(query: Tensor, *_: object, causal: bool) -> tuple[Tensor, Tensor]:
    del causal
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=torch.float32)


if __name__ == "__main__":
    typer.run(main)

"""The other modes of computing: fp8, deterministic, float32."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.gpu.inputs import texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import report_rate
from quernstone import Embedder

_MODES: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "fp8"},
    "deterministic": {"dtype": "bfloat16", "deterministic": True},
    "float32": {"dtype": "float32"},
}
_SLOW = ("deterministic", "float32")
_LEAST_COSINE = 0.999
"""Between a mode and bfloat16. Not for fp8, whose error depends on the weights."""


def run(run: Run) -> None:
    """Measure each mode, and compare its vectors with those of bfloat16."""
    documents = texts(run.size(512, 4), run.size(400, 40))
    expected: np.ndarray | None = None
    for name, settings in _MODES.items():
        if name == "fp8" and not run.cuda:
            run.needs_gpu("fp8")
            continue
        some = documents[: run.size(24, 4)] if name in _SLOW else documents
        start = time.perf_counter()
        with (
            run.part(name),
            Embedder(run.checkpoint("embedding"), device=run.device, **settings) as embedder,
        ):
            loaded = time.perf_counter() - start
            before = embedder.usage.tokens
            vectors = embedder.embed_documents(some)
            tokens = embedder.usage.tokens - before
            expected = vectors if expected is None else expected
            cosine = float((vectors * expected[: len(some)]).sum(1).min())
            again = embedder.embed_documents(some[::-1])[::-1]
            equal = bool((again == vectors).all())
            attention = embedder.info.attention
            run.figure(name, cosine=cosine, attention=attention, load_s=loaded)
            if name not in ("bfloat16", "fp8"):
                run.check(f"{name}: close to bfloat16", cosine >= _LEAST_COSINE, cosine=cosine)
            if name == "deterministic":
                run.check("deterministic: equal in any order", equal)
            else:
                run.figure(f"{name}: in another order", equal=equal)
            rate = f"{name}: 512 tokens"
            report_rate(run, rate, lambda: embedder.embed_documents(some), tokens=tokens, repeats=2)  # noqa: B023

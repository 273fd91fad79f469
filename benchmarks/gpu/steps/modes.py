"""The other modes of computing: fp8, int8, deterministic, float32."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.inputs import texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import report_rate
from quernstone import Embedder

_MODES: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "fp8"},
    "int8": {"dtype": "int8"},
    "deterministic": {"dtype": "bfloat16", "deterministic": True},
    "float32": {"dtype": "float32"},
}
_LEAST_SHARE = 0.5
"""Rate of `deterministic`, of that of bfloat16."""
_LEAST_COSINE = 0.999
"""Between a mode and bfloat16."""
_ROUNDED = ("fp8", "int8")
"""Modes whose error depends on the weights."""


def run(run: Run) -> None:
    """Measure each mode, and compare its vectors with those of bfloat16."""
    documents = texts(run.size(512, 4), run.size(400, 40))
    expected: np.ndarray | None = None
    rates: dict[str, float] = {}
    for name, settings in _MODES.items():
        if name in _ROUNDED and not run.cuda:
            run.needs_gpu(name)
            continue
        start = time.perf_counter()
        with (
            run.part(name),
            Embedder(run.checkpoint("embedding"), device=run.device, **settings) as embedder,
        ):
            loaded = time.perf_counter() - start
            alone = embedder.info.max_batch_tokens == 1
            some = documents[: run.size(24, 4)] if alone or name == "float32" else documents
            before = embedder.usage.tokens
            vectors = embedder.embed_documents(some)
            tokens = embedder.usage.tokens - before
            expected = vectors if expected is None else expected
            cosine = float((vectors * expected[: len(some)]).sum(1).min())
            again = embedder.embed_documents(some[::-1])[::-1]
            equal = bool((again == vectors).all())
            attention = embedder.info.attention
            run.figure(name, cosine=cosine, attention=attention, load_s=loaded)
            if name not in ("bfloat16", *_ROUNDED):
                run.check(f"{name}: close to bfloat16", cosine >= _LEAST_COSINE, cosine=cosine)
            if name == "deterministic":
                if run.cuda:
                    run.check("deterministic: computed in batches", not alone)
                run.check("deterministic: equal in any order", equal)
                few = bool((embedder.embed_documents(some[1:3]) == vectors[1:3]).all())
                run.check("deterministic: equal in small batches", few)
            else:
                run.figure(f"{name}: in another order", equal=equal)
            rate = f"{name}: 512 tokens"
            rates[name] = report_rate(
                run,
                rate,
                partial(embedder.embed_documents, some),
                tokens=tokens,
                repeats=2,
            )
    if {"bfloat16", "deterministic"} <= rates.keys():
        share = rates["deterministic"] / rates["bfloat16"]
        name = "deterministic: at least half of the rate of bfloat16"
        if run.cuda:
            run.check(name, share >= _LEAST_SHARE, share=share)
        else:
            run.needs_gpu(name)

"""Several GPUs in one process, where there are two or more."""

from __future__ import annotations

import torch

from benchmarks.gpu.inputs import texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import report_rate
from quernstone import Embedder
from quernstone.model import session_of

_LEAST_SHARE = 0.8
"""Rate of all GPUs together, of the sum of the rates of each alone."""


def run(run: Run) -> None:
    """Compare vectors and the rate of all GPUs together with those of each of them alone."""
    count = torch.cuda.device_count() if run.cuda else 0
    if count < 2:
        run.needs_gpu(f"several GPUs in one process (found {count})")
        return
    documents = texts(1024 * count, 400)
    folder, rates = run.checkpoint("embedding"), []
    few = documents[:64]
    for device in [*(f"cuda:{number}" for number in range(count)), "cuda:all"]:
        with run.part(device), Embedder(folder, device=device, dtype="bfloat16") as embedder:
            embedder.embed_documents(few)
            before = embedder.usage.tokens
            embedder.embed_documents(documents)
            tokens = embedder.usage.tokens - before
            rate = report_rate(
                run, device, lambda: embedder.embed_documents(documents), tokens=tokens, repeats=2
            )
            rates.append(rate)
            run.figure(f"{device}: described", device=embedder.info.device)
            engines = session_of(embedder).backend.engines  # type: ignore[attr-defined]
    if len(rates) == count + 1:
        share = rates[-1] / sum(rates[:-1])
        name = "all GPUs: rate, of the rates of each added"
        run.check(name, share >= _LEAST_SHARE and engines == count, share=share)
    with run.part("all GPUs: equal vectors"):
        settings = {"dtype": "bfloat16", "deterministic": True}
        with (
            Embedder(folder, device="cuda:0", **settings) as one,
            Embedder(folder, device="cuda:all", **settings) as every,
        ):
            same = bool((one.embed_documents(few) == every.embed_documents(few)).all())
            run.check("all GPUs: equal vectors", same)

"""Tokens per second of embedding: tokenizing, the engine alone, and from texts to vectors."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu import internals
from benchmarks.gpu.inputs import texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import report_rate
from quernstone import Embedder


def run(run: Run) -> None:
    """Measure texts of 512 tokens, of mixed lengths, and of the length of a query."""
    mixes = {
        "512 tokens": texts(run.size(1024, 4), 400),
        "mixed": texts(run.size(3000, 8), range(5, 300)),
        "short": texts(run.size(20000, 50), 8),
    }
    with Embedder(run.checkpoint("embedding"), device=run.device, dtype="bfloat16") as embedder:
        graphs = internals.record_graphs(embedder)  # else they are recorded between the batches
        run.figure("engine", **_settings(embedder), graphs=graphs)
        for name, documents in mixes.items():
            with run.part(name):
                internals.tokenize(embedder, documents[:100])
                start = time.perf_counter()
                encoded = internals.tokenize(embedder, documents)
                took = time.perf_counter() - start
                tokens = sum(map(len, encoded))
                run.figure(
                    f"{name}: tokenizing",
                    tokens_per_s=tokens / took,
                    tokens_per_text=tokens / len(documents),
                )
                report_rate(
                    run,
                    f"{name}: engine alone",
                    lambda: internals.run_tokens(embedder, encoded),  # noqa: B023 - called at once
                    tokens=tokens,
                )
                report_rate(
                    run,
                    f"{name}: texts to vectors",
                    lambda: embedder.embed_documents(documents),  # noqa: B023 - called at once
                    tokens=tokens,
                )
    if run.cuda:
        run.figure("peak memory", gib=torch.cuda.max_memory_allocated() / 2**30)
    else:
        run.needs_gpu("peak memory")


def _settings(embedder: Embedder) -> dict[str, object]:
    info = embedder.info
    return {"attention": info.attention, "max_batch_tokens": info.max_batch_tokens}

"""Run the same work with sentence-transformers, for comparison."""

from __future__ import annotations

import time

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from benchmarks.gpu.inputs import QUERY, texts
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import synchronize

_BATCHES = (32, 128)


def run(run: Run) -> None:
    """Measure embedding, one query, and reranking, in bfloat16 with two sizes of a batch."""
    with run.part("embedding"):
        _embed(run)
    with run.part("reranking"):
        _rerank(run)


def _embed(run: Run) -> None:
    model = SentenceTransformer(
        run.checkpoint("embedding"), device=run.device, model_kwargs={"dtype": "bfloat16"}
    )
    model.max_seq_length = 8192
    mixes = {
        "512 tokens": texts(run.size(384, 4), run.size(400, 40)),
        "mixed": texts(run.size(800, 4), range(5, run.size(300, 40))),
    }
    for name, documents in mixes.items():
        tokens = sum(map(len, model.tokenizer(documents)["input_ids"]))
        for size in _BATCHES:
            model.encode_document(documents[:size], batch_size=size)
            start = time.perf_counter()
            model.encode_document(documents, batch_size=size)
            took = time.perf_counter() - start
            run.figure(f"{name}, batch of {size}", tokens_per_s=tokens / took)
    times = []
    warm_up = run.size(5, 1)
    for query in texts(run.size(40, 3), 8, seed=4):
        start = time.perf_counter()
        model.encode_query(query)
        times.append(time.perf_counter() - start)
    run.figure("one query", p50_ms=np.median(times[warm_up:]) * 1e3)


def _rerank(run: Run) -> None:
    model = CrossEncoder(
        run.checkpoint("reranker"), device=run.device, model_kwargs={"dtype": "bfloat16"}
    )
    documents = texts(run.size(400, 4), range(50, run.size(250, 60)))
    pairs = [(QUERY, document) for document in documents]
    for size in _BATCHES:
        model.predict(pairs[:size], batch_size=size)
        synchronize(run)
        start = time.perf_counter()
        model.predict(pairs, batch_size=size)
        took = time.perf_counter() - start
        run.figure(f"reranking, batch of {size}", documents_per_s=len(pairs) / took)

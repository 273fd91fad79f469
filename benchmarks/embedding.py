"""Embedding documents of mixed lengths: ours against sentence-transformers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sentence_transformers import SentenceTransformer

from benchmarks.checkpoints import SHAPES
from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, compare
from quernstone import Embedder


def run(folder: Path, *, dtype: str, documents: int, repeats: int) -> Result:
    """Both sides read the same checkpoint in the same dtype.

    sentence-transformers runs with its defaults: batches of 32, sorted by length.
    """
    texts = docstrings(documents)
    peer = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)}
    )
    with Embedder(str(folder), device="cpu", dtype=dtype) as embedder:
        warm_up = texts[:2]
        ours, theirs = embedder.embed_documents(warm_up), peer.encode(warm_up)
        theirs = theirs.astype(np.float32) / np.linalg.norm(theirs, axis=1, keepdims=True)
        cosine = float((ours * theirs).sum(axis=1).min())
        lengths = [len(ids) for ids in peer.tokenizer(texts)["input_ids"]]
        tokens = sum(lengths)
        floor = matrix_seconds(tokens, dtype)
        result = compare(
            f"Embedding {documents} documents, 0.6B shape, {dtype}",
            [
                Side("quernstone", lambda: embedder.embed_documents(texts)),
                Side("sentence-transformers, defaults", lambda: peer.encode(texts)),
            ],
            unit="tokens",
            amount=tokens,
            repeats=repeats,
        )
    median, p95 = np.percentile(lengths, [50, 95])
    result.notes.extend(
        [
            f"tokens per document: median {median:.0f}, 95th percentile {p95:.0f}",
            f"smallest cosine between the two sides: {cosine:.5f}",
            f"the matrices alone, at this machine's own rate: {floor:.1f} s, "
            f"{floor / result.seconds[0]:.0%} of ours",
        ]
    )
    return result


def matrix_seconds(tokens: int, dtype: str) -> float:
    """Time of the 0.6B layers' matrix products for so many tokens, measured here and now."""
    shape = SHAPES["embedding-0.6b"]
    query, keys = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
    sizes = [
        (query + keys, shape.hidden),
        (shape.hidden, query),
        (2 * shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    ]
    rows = 2048
    weights = [torch.randn(size, dtype=getattr(torch, dtype)) for size in sizes]
    inputs = [torch.randn(rows, size[1], dtype=getattr(torch, dtype)) for size in sizes]
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        for x, weight in zip(inputs, weights, strict=True):
            F.linear(x, weight)
        best = min(best, time.perf_counter() - start)
    return best / rows * tokens * shape.layers

"""Embed texts of mixed lengths with Quernstone and with other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.contenders import CARD, LLAMA_CPP, ST, ST_BEST, VLLM, Setup, contest
from benchmarks.texts import DOCUMENTS, Mix, mix
from benchmarks.timing import Result
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, query_frame

EXPECTED = {
    # hardly any padding
    "short": {ST: 2.0, ST_BEST: 1.8, CARD: 3.0, VLLM: 1.3, LLAMA_CPP: 2.0},
    "docstring": {ST: 5.0, ST_BEST: 2.5, CARD: 6.0, VLLM: 1.5, LLAMA_CPP: 2.5},
    "long": {ST: 2.5, ST_BEST: 1.5, CARD: 3.0, VLLM: 1.2, LLAMA_CPP: 2.5},
}
"""On a CPU, at full depth. Ours should reach 0.8 of the floor with the mix `docstring`."""
EXPECTED_MEAN = {ST: 5.0, ST_BEST: 2.5}
"""For mean pooling and attention in both directions, with the mix `docstring`."""


def run(setup: Setup, name: Mix, documents: int | None) -> Result:
    """Embed with the same checkpoint and dtype on all sides; the mix `short` as queries."""
    texts = mix(name, documents or DOCUMENTS[name])
    method, frame = "documents", ""
    if name == "short":
        method, frame = "queries", query_frame(DEFAULT_INSTRUCTION)
    lengths = token_counts(setup.checkpoint("Embedding"), [frame + text for text in texts])
    mean = setup.pooling == "mean"
    result = contest(
        "Embedding",
        setup,
        EXPECTED_MEAN if mean else EXPECTED[name],
        title=f"Embedding {len(texts)} texts, mix {name}",
        call=lambda _: (method, texts),
        trial=(method, texts[:8]),
        difference=lambda a, b: f"least cosine to ours {least_cosine(a, b):.5f}",
        tokens=sum(lengths),
        floor_tokens=sum(lengths),
        sequences=sum(lengths) if mean else len(texts),
    )
    median, p95 = np.percentile(lengths, [50, 95])
    result.notes.insert(0, f"tokens of a text: median {median:.0f}, 95th percentile {p95:.0f}")
    return result


def token_counts(model: Path, texts: list[str]) -> list[int]:
    """Return the number of tokens that the texts have for a model."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [len(one.ids) for one in tokenizer.encode_batch(texts)]


def least_cosine(a: list[list[float]], b: list[list[float]]) -> float:
    """Return the lowest cosine between two vectors of the same text."""
    one, two = (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    return float((one * two).sum(axis=1).min())

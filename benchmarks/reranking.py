"""Reranking documents: ours against what others do."""

from __future__ import annotations

import numpy as np

from benchmarks.adapters import CHAT_TEMPLATE
from benchmarks.contenders import CARD, LLAMA_CPP, ST, VLLM, Setup, contest
from benchmarks.embedding import token_counts
from benchmarks.texts import docstrings
from benchmarks.timing import Result
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, RERANK_PREFIX, render_pair, rerank_head

QUERY = "How do I configure the learning rate when training with several parameter groups?"
EXPECTED = {CARD: 6.0, ST: 5.0, VLLM: 2.0, LLAMA_CPP: 1.5}
DOCUMENTS = 100


def run(setup: Setup, documents: int | None) -> Result:
    """One query and many documents. All sides read the same checkpoint in the same dtype.

    The floor counts what the pairs have in common once.
    """
    texts = docstrings(documents or DOCUMENTS, seed=1)
    model = setup.checkpoint("Reranking")
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE)  # for sentence-transformers
    pairs = [render_pair(QUERY, text, DEFAULT_INSTRUCTION) for text in texts]
    shared = RERANK_PREFIX + rerank_head(QUERY, DEFAULT_INSTRUCTION, "card")
    [prefix] = token_counts(model, [shared])
    tokens = sum(token_counts(model, pairs))
    result = contest(
        "Reranking",
        setup,
        EXPECTED,
        title=f"Reranking {len(texts)} documents of one query",
        # a new query for each run, so that no run finds its prefix computed
        call=lambda run: ("score", f"{QUERY} ({run})", texts),
        trial=("score", QUERY, texts[:8]),
        difference=lambda a, b: f"a score differs by up to {np.abs(np.subtract(a, b)).max():.4f}",
        tokens=tokens,
        floor_tokens=tokens - prefix * (len(texts) - 1),
        sequences=len(texts),
    )
    result.notes.insert(
        0, f"{tokens / len(texts):.0f} tokens a pair, of which all share the first {prefix}"
    )
    return result

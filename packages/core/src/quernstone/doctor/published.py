"""Comparison with the published scores of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from quernstone.doctor.report import Outcome, fail, ok, skipped
from quernstone.types import Float32Array, Task


@dataclass(frozen=True, slots=True)
class Published:
    """Scores of the first queries of `texts.RELATED` with its first documents."""

    scores: tuple[tuple[float, ...], ...]
    width: int
    """Hidden size, to rule out smaller models with the same name."""
    source: str


_CARD = "the model card's example"
_BUNDLED = "the bundled model's scores in float32"

# Qwen3-Embedding-0.6B and -8B: README of github.com/QwenLM/Qwen3-Embedding and the cards
# (transformers); 4B: its card. vLLM's values differ by at most 0.0026.
# Qwen3-Reranker-8B: vLLM-Ascend's tutorial; the cards of the rerankers contain no scores.
# tiny: computed with the bundled files.
PUBLISHED: Mapping[Task, Mapping[str, Published]] = {
    "embed": {
        "qwen3-embedding-0.6b": Published(((0.7646, 0.1414), (0.1355, 0.6000)), 1024, _CARD),
        "qwen3-embedding-4b": Published(((0.7534, 0.1147), (0.0320, 0.6258)), 2560, _CARD),
        "qwen3-embedding-8b": Published(((0.7493, 0.0751), (0.0880, 0.6318)), 4096, _CARD),
        "tiny": Published(((0.9194, 0.3054), (0.3524, 0.7008)), 256, _BUNDLED),
    },
    "rerank": {
        "qwen3-reranker-8b": Published(((0.9944, 0.0),), 4096, "vLLM-Ascend's tutorial"),
        "tiny": Published(((0.9984, 0.0346), (0.2068, 0.7534)), 256, _BUNDLED),
    },
}

# transformers and vLLM differ by 0.0026 on the card's example.
_TOLERANCES = {"float32": 0.005}
_TOLERANCE_OTHERWISE = 0.015
"""For 16-bit dtypes, and for servers that do not report theirs."""


def published_for(task: Task, model: str, width: int | None) -> Published | None:
    """Look up the published scores of a model by the last part of its name.

    Args:
        task: Embedding or reranking.
        model: A hub id, a folder, or a server's name for the model.
        width: Its hidden size; None if unknown.
    """
    name = model.rstrip("/").replace("\\", "/").rpartition("/")[2].rpartition(":")[2].lower()
    known = PUBLISHED[task].get(name)
    return known if known and width in (None, known.width) else None


def compare_with_published(
    known: Published | None, dtype: str, scores: Callable[[int, int], Float32Array]
) -> Outcome:
    """Compute scores and compare them with the published ones.

    Args:
        known: The result of `published_for`.
        dtype: Dtype of the computation, which determines the tolerance.
        scores: Computes the scores of the first (queries, documents). Shape: (queries, documents)
    """
    if known is None:
        return skipped("no scores are published for a model of this name and size")
    expected = np.array(known.scores)
    found = scores(*expected.shape)
    off = float(np.abs(found - expected).max())
    limit = _TOLERANCES.get(dtype, _TOLERANCE_OTHERWISE)
    computed = "; ".join(" ".join(f"{value:.4f}" for value in row) for row in found)
    published = "; ".join(" ".join(f"{value:.4f}" for value in row) for row in expected)
    finding = f"{computed} against {published} in {known.source}: {off:.4f} apart at most"
    if off > limit:
        return fail(
            f"{finding}, but at most {limit} is expected in {dtype}",
            "the weights, the prompt, the last token or the pooling differ from the published "
            "model: see the other findings, and compare with `--reference`",
        )
    return ok(finding)

"""The hits of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A chunk found by a search."""

    id: str
    """Id of the point."""
    key: str
    """Key of the document."""
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float
    """Cosine similarity of the full vectors of query and chunk, from -1 to 1."""
    fused_score: float | None = None
    """Sum of the reciprocal ranks in the dense and BM25 results; None without hybrid search, and
    with `boost` or `diversity`, which replace it."""
    boosted_score: float | None = None
    """Score with boosts, or of a formula; None without `boost`."""
    group: str | int | None = None
    """Value of the field `group_by`, or key of the document with `per_document`; else None."""
    retrieval_rank: int
    """Rank before reranking, from 1."""
    rerank_score: float | None = None
    """Probability that the reranker answers yes, from 0 to 1; None without a reranker."""
    payload: dict[str, Any] = field(default_factory=dict, repr=False)
    """The payload as it is stored, in the layout of the collection."""

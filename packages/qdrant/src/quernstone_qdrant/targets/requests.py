"""Search requests to a target, and the points that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import Bm25Text

if TYPE_CHECKING:
    from qdrant_client.models import Filter, FormulaQuery

Feature = Literal["boost", "consistency", "diversity", "feedback", "group_by", "timeout"]
"""An option of a search that only some targets support."""
Consistency: TypeAlias = int | Literal["majority", "quorum", "all"]
"""How many replicas a read asks: a number, or as Qdrant's `ReadConsistencyType` names it."""
RRF_K = 60
"""The usual k of reciprocal rank fusion, from Cormack, Clarke and Büttcher, 2009."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPoint:
    """A point found by a query."""

    id: str
    score: float
    """Score by which hits are ranked: similarity to `SearchRequest.vector`, or that of fusion, of
    a formula or of feedback."""
    payload: dict[str, Any]
    vector: Float32Array | None = None
    """Stored vector named `SearchRequest.using`, if requested."""
    group: str | int | None = None
    """Value of the field `GroupStage.path`, if the request has groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStage:
    """First stage of a two-stage search: the nearest short vectors."""

    using: str
    vector: Float32Array
    """Shape: (size of the short vector,)"""
    limit: int
    """Number of points passed to the second stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Stage:
    """The BM25 part of a hybrid search: points that share words with the query."""

    using: str
    """Name of the sparse vector, or path of the field with a text index."""
    sparse: bool
    """True if `using` names a sparse vector."""
    query: Bm25Text


@dataclass(frozen=True, slots=True, kw_only=True)
class MmrStage:
    """Maximal marginal relevance (MMR).

    Each point is chosen for its similarity to the query and its difference from those before it.
    """

    diversity: float
    """Weight of the difference, from 0 to 1."""
    candidates: int
    """Number of points to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStage:
    """At most `size` points for each value of a payload field."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FormulaStage:
    """A formula for the scores of the best `candidates` points."""

    query: FormulaQuery
    candidates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackExample:
    """A point that a reranker scored."""

    id: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackStage:
    """Search by similarity to the query and to the better of each two examples."""

    examples: Sequence[FeedbackExample]
    a: float
    """Weight of the similarity to the query."""
    b: float
    """Exponent of the difference of two scores."""
    c: float
    """Weight of the examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search for the points nearest to `vector`, ranked in full precision.

    `prefix` restricts it to the points found by the first stage. With `bm25`, both rankings are
    combined by reciprocal rank fusion (RRF): a point's score is the sum of 1 / (k + rank), with
    ranks from 0. `feedback` replaces the similarity to `vector` in the dense searches. `mmr` or
    `formula` ranks what was found so far, and `groups` limits it.
    """

    vector: Float32Array
    """Shape: (dimensions,)"""
    limit: int
    using: str = ""
    """Name of the vector to search."""
    where: Filter | None = None
    oversampling: float | None = None
    """For a quantized vector: search `limit` times this many points by quantized vectors, then
    rescore them by full ones. None: the vector is not quantized."""
    prefix: PrefixStage | None = None
    bm25: Bm25Stage | None = None
    depth: int = 0
    """Hybrid search: number of points taken from each of the two rankings."""
    rrf_k: int = RRF_K
    """Hybrid search: the k of RRF; a larger value gives top ranks less weight."""
    with_vector: bool = False
    """Return the vector named `using` of each point found."""
    mmr: MmrStage | None = None
    formula: FormulaStage | None = None
    feedback: FeedbackStage | None = None
    groups: GroupStage | None = None
    """With groups, `limit` is the number of groups."""
    consistency: Consistency | None = None
    """Replicas that a server asks; None: its default, one."""
    timeout: int | None = None
    """Seconds that a server may take; None: its default."""

"""Translate searches to the types of Qdrant Edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import qdrant_edge as edge

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import encode_query
from quernstone_qdrant.targets.base import native_ids
from quernstone_qdrant.targets.edge_filters import edge_filter
from quernstone_qdrant.targets.edge_formulas import edge_formula
from quernstone_qdrant.targets.edge_translate import sparse_vector
from quernstone_qdrant.targets.requests import Bm25Stage, SearchRequest
from quernstone_qdrant.targets.stored import dense_vectors

Vectors: TypeAlias = "Mapping[str, Mapping[str, Float32Array]]"
"""Dense vectors of points, by id and name."""


def query_request(request: SearchRequest, shard: edge.EdgeShard) -> edge.QueryRequest:
    """Translate a search.

    Args:
        request: The search.
        shard: Holds the points in `request.feedback`: Edge takes their vectors instead of ids.

    Raises:
        ConfigError: Edge does not support a condition of the filter.
    """
    where, examples = edge_filter(request.where), _example_vectors(request, shard)
    return edge.QueryRequest(
        limit=request.limit,
        with_payload=True,
        with_vector=[request.using] if request.with_vector else False,
        **{"filter": where, **_ranking(request, where, examples)},
    )


def _example_vectors(request: SearchRequest, shard: edge.EdgeShard) -> Vectors:
    if request.feedback is None:
        return {}
    ids = native_ids([one.id for one in request.feedback.examples])
    found = shard.retrieve(ids, with_payload=False, with_vector=True)
    return {str(point.id): dense_vectors(point.vector) for point in found}


def _ranking(
    request: SearchRequest, where: edge.Filter | None, examples: Vectors
) -> dict[str, Any]:
    """Return the query with its prefetches, as arguments of a `Prefetch` without its limit."""
    if request.mmr is not None:
        query = edge.Mmr(
            request.vector.tolist(),
            1.0 - request.mmr.diversity,
            request.mmr.candidates,
            using=request.using,
        )
        if request.bm25 is None:
            return {**_dense(request, where, examples), "query": query}
        fused = _fused(request, request.bm25, where, examples)
        return {
            "prefetches": [edge.Prefetch(limit=request.mmr.candidates, **fused)],
            "query": query,
        }
    if request.bm25 is None:
        base = _dense(request, where, examples)
    else:
        base = _fused(request, request.bm25, where, examples)
    if request.formula is None:
        return base
    found = edge.Prefetch(limit=request.formula.candidates, **base)
    return {"prefetches": [found], "query": edge_formula(request.formula.query)}


def _fused(
    request: SearchRequest, bm25: Bm25Stage, where: edge.Filter | None, examples: Vectors
) -> dict[str, Any]:
    """Return the hybrid search."""
    prefetches = [edge.Prefetch(limit=request.depth, **_dense(request, where, examples))]
    words = _bm25_query(bm25)
    if words is not None:
        prefetches.append(edge.Prefetch(limit=request.depth, query=words, filter=where))
    fusion: Any = edge.Fusion.Rrf(request.rrf_k)
    return {"prefetches": prefetches, "query": fusion}


def _dense(request: SearchRequest, where: edge.Filter | None, examples: Vectors) -> dict[str, Any]:
    """Return the dense search, in one or two stages."""
    stage: dict[str, Any] = {
        "query": _nearest(request, request.vector, request.using, examples),
        "filter": where,
    }
    if request.prefix is not None:
        stage["prefetches"] = [
            edge.Prefetch(
                limit=request.prefix.limit,
                query=_nearest(request, request.prefix.vector, request.prefix.using, examples),
                filter=where,
                # The second stage rescores with full vectors, so the first need not.
                params=_params(rescore=False),
            )
        ]
    elif request.oversampling is not None:
        stage["params"] = _params(rescore=True, oversampling=request.oversampling)
    return stage


def _nearest(
    request: SearchRequest, vector: Float32Array, using: str, examples: Vectors
) -> edge.Query:
    """Return the query for one vector; with feedback, also for those of the examples."""
    feedback = request.feedback
    if feedback is None:
        return edge.Query.Nearest(vector.tolist(), using=using)
    items = [
        edge.FeedbackItem(examples[one.id][using].tolist(), one.score) for one in feedback.examples
    ]
    weights = edge.NaiveFeedbackStrategy(feedback.a, feedback.b, feedback.c)
    return edge.Query.FeedbackNaive(
        edge.FeedbackNaiveQuery(vector.tolist(), items, weights), using=using
    )


def _params(*, rescore: bool, oversampling: float | None = None) -> edge.SearchParams:
    how = edge.QuantizationSearchParams(rescore=rescore, oversampling=oversampling)
    return edge.SearchParams(quantization=how)


def _bm25_query(stage: Bm25Stage) -> Any:
    """Return the query of the BM25 stage; None if the text has only stop words."""
    if not stage.sparse:
        return edge.TextQuery(stage.using, stage.query.text)
    vector = encode_query(stage.query)
    return edge.Query.Nearest(sparse_vector(vector), using=stage.using) if vector.indices else None

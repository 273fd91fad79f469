"""Translate searches to the types of `qdrant_client`, and the points that it finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qdrant_client import models

from quernstone.types import Float32Array
from quernstone_qdrant.documents.bm25 import encode_query
from quernstone_qdrant.targets.base import native_id
from quernstone_qdrant.targets.requests import (
    Bm25Stage,
    Consistency,
    FoundPoint,
    GroupStage,
    SearchRequest,
)
from quernstone_qdrant.targets.stored import dense_vectors
from quernstone_qdrant.targets.translate import sparse_vector

_BATCHED = {"query_filter": "filter", "search_params": "params", "with_vectors": "with_vector"}
"""Arguments of `query_points` that have another name in a `QueryRequest`."""


def query_arguments(request: SearchRequest, *, embedded: bool) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.query_points` without the collection's name."""
    ranking = _ranking(request)
    if "filter" in ranking:
        del ranking["filter"]
    params = ranking.pop("params", None)  # the embedded client warns about unused parameters
    return {
        "limit": request.limit,
        "query_filter": request.where,
        "with_payload": True,
        "with_vectors": [request.using] if request.with_vector else False,
        **ranking,
        **({"search_params": params} if params is not None and not embedded else {}),
    }


def _ranking(request: SearchRequest) -> dict[str, Any]:
    """Return the query with its prefetches, as fields of a `Prefetch` without its limit."""
    if request.mmr is not None:
        query = models.NearestQuery(
            nearest=request.vector.tolist(),
            mmr=models.Mmr(
                diversity=request.mmr.diversity, candidates_limit=request.mmr.candidates
            ),
        )
        if request.bm25 is None:
            return {**_dense(request), "query": query}
        found = models.Prefetch(**_fused(request, request.bm25), limit=request.mmr.candidates)
        return {"prefetch": [found], "query": query, "using": request.using or None}
    base = _dense(request) if request.bm25 is None else _fused(request, request.bm25)
    if request.formula is None:
        return base
    found = models.Prefetch(**base, limit=request.formula.candidates)
    return {"prefetch": [found], "query": request.formula.query}


def _fused(request: SearchRequest, bm25: Bm25Stage) -> dict[str, Any]:
    """Return the hybrid search."""
    prefetches = [models.Prefetch(**_dense(request), limit=request.depth)]
    words = _bm25_query(bm25)
    if words is not None:
        prefetches.append(
            models.Prefetch(
                query=words, using=bm25.using, limit=request.depth, filter=request.where
            )
        )
    fusion = models.RrfQuery(rrf=models.Rrf(k=request.rrf_k))
    return {"prefetch": prefetches, "query": fusion}


def _dense(request: SearchRequest) -> dict[str, Any]:
    """Return the dense search, in one or two stages."""
    stage: dict[str, Any] = {
        "query": _nearest(request, request.vector),
        "using": request.using or None,
        "filter": request.where,
    }
    if request.prefix is not None:
        stage["prefetch"] = models.Prefetch(
            query=_nearest(request, request.prefix.vector),
            using=request.prefix.using,
            limit=request.prefix.limit,
            filter=request.where,
            # The second stage rescores with full vectors, so the first need not.
            params=_params(rescore=False),
        )
    elif request.oversampling is not None:
        stage["params"] = _params(rescore=True, oversampling=request.oversampling)
    return stage


def _nearest(request: SearchRequest, vector: Float32Array) -> Any:
    """Return the query for one vector; with feedback, also for those of the examples."""
    feedback = request.feedback
    if feedback is None:
        return vector.tolist()
    weights = models.NaiveFeedbackStrategyParams(a=feedback.a, b=feedback.b, c=feedback.c)
    return models.RelevanceFeedbackQuery(
        relevance_feedback=models.RelevanceFeedbackInput(
            target=vector.tolist(),
            feedback=[
                models.FeedbackItem(example=native_id(one.id), score=one.score)
                for one in feedback.examples
            ],
            strategy=models.NaiveFeedbackStrategy(naive=weights),
        )
    )


def _params(*, rescore: bool, oversampling: float | None = None) -> models.SearchParams:
    how = models.QuantizationSearchParams(rescore=rescore, oversampling=oversampling)
    return models.SearchParams(quantization=how)


def _bm25_query(stage: Bm25Stage) -> Any:
    """Return the query of the BM25 stage; None if the text has only stop words."""
    if not stage.sparse:
        return models.TextQuery(text=stage.query.text)
    vector = encode_query(stage.query)
    return sparse_vector(vector) if vector.indices else None


def batched(request: SearchRequest, *, embedded: bool) -> models.QueryRequest:
    """Return one part of the argument of `QdrantClient.query_batch_points`."""
    arguments = query_arguments(request, embedded=embedded)
    return models.QueryRequest(
        **{_BATCHED.get(name, name): value for name, value in arguments.items()}
    )


def read_arguments(request: SearchRequest) -> dict[str, Any]:
    """Return the arguments for the read consistency and the timeout."""
    return {"consistency": _consistency(request.consistency), "timeout": request.timeout}


def group_arguments(groups: GroupStage) -> dict[str, Any]:
    """Return the additional arguments of `QdrantClient.query_points_groups`."""
    return {"group_by": groups.path, "group_size": groups.size}


def grouped_points(groups: Iterable[models.PointGroup], using: str) -> list[FoundPoint]:
    """Convert the points of groups; a point of several groups stays in the first."""
    found: dict[str, FoundPoint] = {}
    for group in groups:
        for point in group.hits:
            found.setdefault(str(point.id), found_point(point, using, group.id))
    return list(found.values())


def found_point(point: Any, using: str, group: str | int | None = None) -> FoundPoint:
    """Convert a point of either library, with its vector named `using`."""
    return FoundPoint(
        id=str(point.id),
        score=float(point.score),
        payload=point.payload or {},
        vector=dense_vectors(point.vector).get(using),
        group=group,
    )


def _consistency(asked: Consistency | None) -> models.ReadConsistency | None:
    return models.ReadConsistencyType(asked) if isinstance(asked, str) else asked

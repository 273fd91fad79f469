"""Translate searches to the types of `qdrant_client`, and the points that it finds."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from quernstone_qdrant.documents.bm25 import encode_query
from quernstone_qdrant.targets.requests import Bm25Stage, Consistency, FoundPoint, SearchRequest
from quernstone_qdrant.targets.stored import dense_vectors
from quernstone_qdrant.targets.translate import sparse_vector

_BATCHED = {"query_filter": "filter", "search_params": "params", "with_vectors": "with_vector"}
"""Arguments of `query_points` that have another name in a `QueryRequest`."""


def query_arguments(request: SearchRequest, *, embedded: bool) -> dict[str, Any]:
    """Return the arguments of `QdrantClient.query_points` without the collection's name."""
    common = {
        "limit": request.limit,
        "query_filter": request.where,
        "with_payload": True,
        "with_vectors": [request.using] if request.with_vector else False,
    }
    dense = _dense(request)
    if request.bm25 is None:
        del dense["filter"]
        params = dense.pop("params", None)  # the embedded client warns about unused parameters
        return {**common, **dense, "search_params": None if embedded else params}
    prefetches = [models.Prefetch(**dense, limit=request.depth)]
    bm25 = _bm25_query(request.bm25)
    if bm25 is not None:
        prefetches.append(
            models.Prefetch(
                query=bm25,
                using=request.bm25.using,
                limit=request.depth,
                filter=request.where,
            )
        )
    fusion = models.RrfQuery(rrf=models.Rrf(k=request.rrf_k))
    return {**common, "prefetch": prefetches, "query": fusion}


def _dense(request: SearchRequest) -> dict[str, Any]:
    """Return the arguments of the dense search, in one or two stages, without its limit."""
    stage: dict[str, Any] = {
        "query": request.vector.tolist(),
        "using": request.using or None,
        "filter": request.where,
    }
    if request.prefix is not None:
        stage["prefetch"] = models.Prefetch(
            query=request.prefix.vector.tolist(),
            using=request.prefix.using,
            limit=request.prefix.limit,
            filter=request.where,
            # The second stage rescores with full vectors, so the first need not.
            params=_params(rescore=False),
        )
    elif request.oversampling is not None:
        stage["params"] = _params(rescore=True, oversampling=request.oversampling)
    return stage


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
    """Return the arguments that say which replicas answer, and until when."""
    return {"consistency": _consistency(request.consistency), "timeout": request.timeout}


def found_point(point: Any, using: str) -> FoundPoint:
    """Convert a point of either library, with its vector named `using`."""
    return FoundPoint(
        id=str(point.id),
        score=float(point.score),
        payload=point.payload or {},
        vector=dense_vectors(point.vector).get(using),
    )


def _consistency(asked: Consistency | None) -> models.ReadConsistency | None:
    return models.ReadConsistencyType(asked) if isinstance(asked, str) else asked

"""Translate searches to the types of Qdrant Edge."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from quernstone_qdrant.documents.bm25 import encode_query
from quernstone_qdrant.targets.edge_filters import edge_filter
from quernstone_qdrant.targets.edge_translate import sparse_vector
from quernstone_qdrant.targets.requests import Bm25Stage, SearchRequest


def query_request(request: SearchRequest) -> edge.QueryRequest:
    """Translate a search.

    Raises:
        ConfigError: Edge does not support a condition of the filter.
    """
    where = edge_filter(request.where)
    common: dict[str, Any] = {
        "limit": request.limit,
        "with_payload": True,
        "with_vector": [request.using] if request.with_vector else False,
    }
    dense = _dense(request, where)
    if request.bm25 is None:
        return edge.QueryRequest(**common, **dense)
    prefetches = [edge.Prefetch(limit=request.depth, **dense)]
    bm25 = _bm25_query(request.bm25)
    if bm25 is not None:
        prefetches.append(edge.Prefetch(limit=request.depth, query=bm25, filter=where))
    fusion: Any = edge.Fusion.Rrf(request.rrf_k)
    return edge.QueryRequest(**common, prefetches=prefetches, query=fusion, filter=where)


def _dense(request: SearchRequest, where: edge.Filter | None) -> dict[str, Any]:
    """Return the arguments of the dense search, in one or two stages, without its limit."""
    stage: dict[str, Any] = {
        "query": edge.Query.Nearest(request.vector.tolist(), using=request.using),
        "filter": where,
    }
    if request.prefix is not None:
        stage["prefetches"] = [
            edge.Prefetch(
                limit=request.prefix.limit,
                query=edge.Query.Nearest(
                    request.prefix.vector.tolist(), using=request.prefix.using
                ),
                filter=where,
                # The second stage rescores with full vectors, so the first need not.
                params=_params(rescore=False),
            )
        ]
    elif request.oversampling is not None:
        stage["params"] = _params(rescore=True, oversampling=request.oversampling)
    return stage


def _params(*, rescore: bool, oversampling: float | None = None) -> edge.SearchParams:
    how = edge.QuantizationSearchParams(rescore=rescore, oversampling=oversampling)
    return edge.SearchParams(quantization=how)


def _bm25_query(stage: Bm25Stage) -> Any:
    """Return the query of the BM25 stage; None if the text has only stop words."""
    if not stage.sparse:
        return edge.TextQuery(stage.using, stage.query.text)
    vector = encode_query(stage.query)
    return edge.Query.Nearest(sparse_vector(vector), using=stage.using) if vector.indices else None

"""The bodies of answers, in the shapes of other APIs."""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any

import numpy as np

from quernstone.embedder import finish_rows
from quernstone.serve.models import Computed
from quernstone.serve.schemas import Document, RerankRequest


def embeddings(
    model: str, computed: Computed, dimensions: int, form: str, *, normalize: bool
) -> dict[str, Any]:
    """Return the answer of `/v1/embeddings`."""
    vectors = finish_rows(computed.rows, dimensions, normalize=normalize)
    rows: list[Any] = list(np.ascontiguousarray(vectors))
    if form == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    data = [
        {"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)
    ]
    return {"object": "list", "model": model, "data": data, "usage": usage(computed)}


def ranking(model: str, request: RerankRequest, computed: Computed) -> dict[str, Any]:
    """Return the answer of `/rerank`, with the fields of Cohere's two versions and of Jina's."""
    scores = computed.rows[:, 0]
    results: list[dict[str, Any]] = []
    for index in np.argsort(-scores, kind="stable")[: request.top_n].tolist():
        results.append({"index": index, "relevance_score": float(scores[index])})
        if request.return_documents:
            results[-1]["document"] = {"text": text_of(request.documents[index])}
    return {
        "id": str(uuid.uuid4()),
        "model": model,
        "results": results,
        "usage": usage(computed),
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def scores(model: str, computed: Computed) -> dict[str, Any]:
    """Return the answer of `/score`."""
    data = [
        {"index": index, "object": "score", "score": float(score)}
        for index, score in enumerate(computed.rows[:, 0])
    ]
    return {
        "id": str(uuid.uuid4()),
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage(computed),
    }


def usage(computed: Computed) -> dict[str, int]:
    """Return the number of tokens of a request, and the number of truncated inputs."""
    return {
        "prompt_tokens": computed.tokens,
        "total_tokens": computed.tokens,
        "truncated": len(computed.truncated),
    }


def text_of(document: str | Document) -> str:
    """Return the text of a document to rerank."""
    return document if isinstance(document, str) else document.text

"""The routes of a server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quernstone.embedder import Embedder, check_dimensions
from quernstone.reranker import Reranker
from quernstone.serve import answers, native
from quernstone.serve.models import Computed, Settings
from quernstone.serve.requests import answer, json_answer
from quernstone.serve.schemas import (
    Body,
    EmbeddingRequest,
    NativeRequest,
    RerankRequest,
    ScoreRequest,
    TemplateRequest,
)
from quernstone.serve.state import State

B = TypeVar("B", bound=Body)
Handler = Callable[[State, Request, B], Coroutine[Any, Any, Response]]

# Approximate bytes of JSON for a number, for a number in base64, and for a score with its index.
_DECIMAL, _BASE64, _ROW = 12, 6, 60

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning}
    for status, meaning in {
        400: "The body is not JSON.",
        401: "The API key is missing or wrong.",
        404: "There is no such model.",
        408: "The body did not arrive in time.",
        413: "The request is larger than a limit.",
        422: "A field or an input cannot be used; the message says which.",
        429: "The queue is full. `Retry-After` says when to retry.",
        500: "The model failed.",
        503: "The server is loading its models or stopping.",
        504: "There was no answer in time.",
        507: "An input does not fit into memory even alone.",
    }.items()
}


async def embeddings(state: State, request: Request, body: EmbeddingRequest) -> Response:
    """Embed one text or a list of texts."""
    models = state.models()
    embedder = models.embedder.model
    name = models.embedder.check_name(body.model)
    dimensions = check_dimensions(body.dimensions, embedder.dimensions)
    texts = [body.input] if isinstance(body.input, str) else body.input
    is_query = body.input_type == "query" or (body.input_type is None and bool(body.instruction))
    instruction = embedder.instruction if body.instruction is None else body.instruction
    settings = Settings(truncate=body.truncate)
    computed = await models.embed(texts, instruction if is_query else None, settings)
    _count(request, len(texts), computed)
    form = body.encoding_format
    size = len(texts) * dimensions * (_BASE64 if form == "base64" else _DECIMAL)
    render = partial(answers.embeddings, normalize=embedder.normalized)
    return await json_answer(render, name, computed, dimensions, form, size=size)


async def rerank(state: State, request: Request, body: RerankRequest) -> Response:
    """Order documents by their relevance to a query."""
    models = state.models()
    name = models.reranker.check_name(body.model)
    pairs = [(body.query, answers.text_of(document)) for document in body.documents]
    computed = await models.score(pairs, body.instruction, Settings(truncate=body.truncate))
    _count(request, len(pairs), computed)
    return await json_answer(answers.ranking, name, body, computed, size=_ROW * len(pairs))


async def score(state: State, request: Request, body: ScoreRequest) -> Response:
    """Compute the probability that each document is relevant to its query."""
    models = state.models()
    name = models.reranker.check_name(body.model)
    pairs = body.pairs
    computed = await models.score(pairs, body.instruction, Settings(truncate=body.truncate))
    _count(request, len(pairs), computed)
    return await json_answer(answers.scores, name, computed, size=_ROW * len(pairs))


async def run_native(state: State, request: Request, body: NativeRequest) -> Response:
    """Compute for Quernstone's remote engine."""
    computed = await native.compute(state.models(), body)
    _count(request, len(body.texts), computed)
    return await json_answer(native.render, computed, size=computed.rows.size * _BASE64)


async def resolve_template(state: State, _: Request, body: TemplateRequest) -> Response:
    """Describe how the reranking model uses a template."""
    return JSONResponse(await native.resolve_template(state.models(), body))


POSTS: list[tuple[str, type[Body], Handler[Any]]] = [
    ("/v1/embeddings", EmbeddingRequest, embeddings),
    ("/v1/rerank", RerankRequest, rerank),
    ("/v2/rerank", RerankRequest, rerank),
    ("/rerank", RerankRequest, rerank),
    ("/score", ScoreRequest, score),
    ("/quernstone/v1", NativeRequest, run_native),
    ("/quernstone/v1/template", TemplateRequest, resolve_template),
]


def add_routes(app: FastAPI, state: State) -> None:
    """Add all routes to an application."""
    for path, schema, handler in POSTS:
        app.add_api_route(
            path,
            _endpoint(state, schema, handler),
            methods=["POST"],
            operation_id=path.strip("/").replace("/", "_"),
            summary=(handler.__doc__ or "").rstrip("."),
            response_class=JSONResponse,
            responses=_ERRORS,
            openapi_extra={"requestBody": _described_body(schema)},
        )

    @app.get("/v1/models", summary="The models that are served", responses=_ERRORS)
    async def list_models() -> Any:
        return {
            "object": "list",
            "data": [_card(model) for model in state.models()],
        }

    @app.get("/quernstone/v1", summary="The models, for Quernstone's remote engine")
    async def describe() -> Any:
        return native.describe(state.models())

    @app.get("/health", summary="200 as soon as the models are loaded, else 503")
    async def health() -> Any:
        state.models()
        return {"status": state.status}

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(state.telemetry.render(), media_type="text/plain; version=0.0.4")


def _endpoint(state: State, schema: type[B], handler: Handler[B]) -> Any:
    async def endpoint(request: Request) -> Response:
        return await answer(
            request, schema, state.options, lambda body: handler(state, request, body)
        )

    return endpoint


def _described_body(schema: type[Body]) -> dict[str, Any]:
    """Describe a body for OpenAPI. FastAPI cannot, because we read it ourselves."""
    described = schema.model_json_schema()
    named = described.pop("$defs", {})
    return {
        "required": True,
        "content": {"application/json": {"schema": _without_references(described, named)}},
    }


def _without_references(schema: Any, named: dict[str, Any]) -> Any:
    """Replace references by the named schemas, because OpenAPI resolves them from another place."""
    if isinstance(schema, list):
        return [_without_references(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _without_references(named[schema["$ref"].rpartition("/")[2]], named)
    return {name: _without_references(value, named) for name, value in schema.items()}


def _card(model: Embedder | Reranker) -> dict[str, Any]:
    return {
        "id": model.model,
        "object": "model",
        "created": 0,
        "owned_by": "quernstone",
        "max_model_len": model.max_length,
        "task": "embed" if isinstance(model, Embedder) else "rerank",
    }


def _count(request: Request, inputs: int, computed: Computed) -> None:
    """Record the size of a request for metrics and logs."""
    counted = request.state.counted
    counted.inputs, counted.tokens = inputs, computed.tokens
    counted.truncated = len(computed.truncated)

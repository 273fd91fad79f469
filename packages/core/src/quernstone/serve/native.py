"""The protocol of Quernstone's own remote engine, which supports all that a local model can do.

The client sends texts without prompts, and its limits. The server adds the prompts, cuts the texts,
and returns the exact rows, the number of tokens, and the positions of the texts that were cut. It
also describes its models, with the digests by which a collection recognizes them.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from quernstone.embedder import Embedder
from quernstone.engines.remote.answers import NATIVE_PROTOCOL
from quernstone.engines.remote.native import write_template
from quernstone.errors import ConfigError
from quernstone.model import session_of
from quernstone.reranker import Reranker
from quernstone.serve.models import Computed, Models, Settings
from quernstone.serve.schemas import NativeRequest, TemplateRequest
from quernstone.types import ServedModel


def describe(models: Models) -> dict[str, Any]:
    """Describe the models of a server."""
    return {
        "protocol": NATIVE_PROTOCOL,
        "version": version("quernstone"),
        "models": [_description(model) for model in models],
    }


def _description(model: Embedder | Reranker) -> dict[str, Any]:
    session = session_of(model)
    info = session.info
    served = ServedModel(
        name=model.model,
        digest=model.digest,
        adapter=session.adapter,
        instruction=model.instruction,
        own_prompts=session.own_prompts,
        query_prompt=session.prompts.query,
        document_prompt=session.prompts.document,
        normalizes=session.normalizes,
        engine=session.info.engine,
        options_digest=session.options_digest,
        template=session.template,
        head_rows=session.head_rows,
    )
    return {
        "task": "embed" if isinstance(model, Embedder) else "rerank",
        "model": asdict(served),
        "revision": model.revision,
        "max_length": model.max_length,
        "device": info.device,
        "dtype": info.dtype,
        "attention": info.attention,
    }


async def compute(models: Models, request: NativeRequest) -> Computed:
    """Compute a request of our remote engine.

    Raises:
        ConfigError: The client has another version of the protocol.
    """
    _check_protocol(request.protocol)
    settings = Settings(
        max_length=request.max_length, truncate=request.truncate, template=request.template
    )
    if request.query is None:
        models.embedder.check_name(request.model)
        return await models.embed(request.texts, request.instruction, settings)
    models.reranker.check_name(request.model)
    pairs = [(request.query, text) for text in request.texts]
    return await models.score(pairs, request.instruction, settings)


async def resolve_template(models: Models, request: TemplateRequest) -> dict[str, Any]:
    """Return a template as the model uses it, and the rows of the output head for its answers.

    Raises:
        ConfigError: The client has another version of the protocol, or the model cannot use this
            template.
    """
    _check_protocol(request.protocol)
    models.reranker.check_name(request.model)
    variant = await models.reranker.variant(Settings(template=request.template))
    return {
        "protocol": NATIVE_PROTOCOL,
        "template": write_template(variant.template),
        "head_rows": session_of(variant).head_rows,
    }


def _check_protocol(theirs: int) -> None:
    if theirs != NATIVE_PROTOCOL:
        raise ConfigError(
            f"the client speaks version {theirs} of the protocol, and this server "
            f"version {NATIVE_PROTOCOL}; install one version of quernstone on both"
        )


def render(computed: Computed) -> dict[str, Any]:
    """Return the answer to a request of our remote engine."""
    return {
        "protocol": NATIVE_PROTOCOL,
        "width": computed.rows.shape[1],
        "rows": base64.b64encode(computed.rows.astype("<f4").tobytes()).decode(),
        "tokens": computed.tokens,
        "truncated": list(computed.truncated),
    }

"""`quern serve`: one loaded model for many processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import EngineOptions, Template, model_option
from quernstone.cli.templates import read_template
from quernstone.errors import ConfigError, MissingExtraError

limit_option = partial(typer.Option, rich_help_panel="Limits")


@dataclass(frozen=True)
class LimitOptions:
    """Limits of a server; see `ServeOptions`."""

    max_length: Annotated[int, limit_option(min=1, help="Tokens per input.")] = 8192
    max_inputs: Annotated[int, limit_option(min=1, help="Inputs per request.")] = 2048
    max_bytes: Annotated[int, limit_option(min=1, help="Bytes per request.")] = 16_000_000
    max_tokens: Annotated[int, limit_option(min=1, help="Tokens per request.")] = 2_000_000
    max_wait: Annotated[
        float,
        limit_option(help="Seconds that a request may wait; if it would wait longer, it gets 429."),
    ] = 10.0
    timeout: Annotated[float, limit_option(help="Seconds per request.")] = 120.0


@expand_options
def serve(
    *,
    embed: Annotated[
        str | None, model_option(help="Embedding model: hub id, local folder, or `tiny`.")
    ] = None,
    rerank: Annotated[
        str | None, model_option(help="Reranking model: hub id, local folder, or `tiny`.")
    ] = None,
    template: Template = None,
    engine: EngineOptions,
    limits: LimitOptions,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    uds: Annotated[
        Path | None, typer.Option(help="Unix socket to listen on, instead of a port.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the accepted API keys, one per line.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin whose scripts may use the server.")
    ] = None,
) -> None:
    """Serve an embedding model, a reranking model, or both, over HTTP.

    Clients can use OpenAI's `/v1/embeddings`, `/rerank` of Cohere and Jina, vLLM's `/score`, or
    Quernstone itself: `Embedder("http://localhost:8000")`. The server documents its API at `/docs`.
    """
    try:
        from quernstone.serve.keys import read_keys
        from quernstone.serve.models import Models
        from quernstone.serve.options import ServeOptions
        from quernstone.serve.run import run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from quernstone import Embedder, Reranker

    if embed is None and rerank is None:
        raise ConfigError("no model to serve: pass --embed MODEL, --rerank MODEL, or both")
    keys = read_keys(api_key_file) if api_key_file else ()
    if not keys and not uds and host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo(
            f"quern: anyone who can reach {host} can use this server; protect it with "
            "--api-key-file",
            err=True,
        )
    options = ServeOptions(
        keys=keys,
        max_inputs=limits.max_inputs,
        max_bytes=limits.max_bytes,
        max_tokens=limits.max_tokens,
        max_wait=limits.max_wait,
        timeout=limits.timeout,
        cors_origins=tuple(cors_origin or ()),
    )
    if engine.adapter and embed and rerank:
        raise ConfigError(
            "--adapter applies to one model, but there are two: serve the other with a second "
            "`quern serve`"
        )
    rendering = read_template(template)
    shared: dict[str, Any] = {
        "device": engine.device,
        "dtype": engine.dtype,
        "engine": engine.engine,
        "max_length": limits.max_length,
        "adapter": engine.adapter,
    }

    def load() -> Models:
        embedder = Embedder(embed, **shared) if embed else None
        reranker = Reranker(rerank, **shared, template=rendering) if rerank else None
        return Models(embedder, reranker, options)

    run(load, options, host=host, port=port, uds=str(uds) if uds else None)

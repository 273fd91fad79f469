"""Options that several commands have, and the models that they describe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone import Embedder, Reranker
    from quernstone.types import Dtype

EMBEDDING_MODEL = "Qwen/Qwen3-Embedding-0.6B"
RERANKING_MODEL = "Qwen/Qwen3-Reranker-0.6B"

_PANEL = "Model"
_MODEL_HELP = "Hub id, local folder, or `tiny` (bundled, offline, for trying things out)."

EmbeddingModel = Annotated[
    str,
    typer.Option("--model", "-m", envvar="QUERN_MODEL", help=_MODEL_HELP, rich_help_panel=_PANEL),
]
RerankingModel = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="QUERN_RERANK_MODEL", help=_MODEL_HELP, rich_help_panel=_PANEL
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        help="Length of the vectors, 32 to the model's own. (default: the model's own)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Instruction = Annotated[
    str | None,
    typer.Option(
        help="What the queries are for, in one English sentence. (default: the model's own)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_PANEL)]
DtypeName = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto, float32, bfloat16, float16, int8, fp8.", rich_help_panel=_PANEL
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="auto, torch, transformers, sentence-transformers, vllm.", rich_help_panel=_PANEL
    ),
]
_SERVER = "Model on a server"
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of a server that runs the model; its key goes into QUERN_API_KEY.",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
Dialect = Annotated[
    str | None,
    typer.Option(
        help="openai, vllm, tei, infinity, sglang, cohere, jina. (default: openai)",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
RenderedBy = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="Who renders the reranker's prompt: client or server.",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens per forward pass. (default: from the free memory)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


def open_embedder(
    model: str,
    *,
    device: str,
    dtype: str,
    engine: str,
    endpoint: str | None = None,
    dialect: str | None = None,
    dimensions: int | None = None,
    instruction: str | None = None,
    batch_tokens: int | None = None,
) -> Embedder:
    """Load the embedding model that the options describe."""
    from quernstone import Embedder

    return Embedder(
        model,
        device=device,
        dtype=cast("Dtype", dtype),
        **engine_settings(engine, endpoint, dialect),
        dimensions=dimensions,
        instruction=instruction,
        max_batch_tokens=batch_tokens,
    )


def open_reranker(
    model: str,
    *,
    device: str,
    dtype: str,
    engine: str,
    endpoint: str | None = None,
    dialect: str | None = None,
    template: str | None = None,
    instruction: str | None = None,
    batch_tokens: int | None = None,
) -> Reranker:
    """Load the reranking model that the options describe."""
    from quernstone import Reranker

    return Reranker(
        model,
        device=device,
        dtype=cast("Dtype", dtype),
        **engine_settings(engine, endpoint, dialect, template),
        instruction=instruction,
        max_batch_tokens=batch_tokens,
    )


def engine_settings(
    engine: str, endpoint: str | None, dialect: str | None, template: str | None = None
) -> dict[str, Any]:
    """What `Embedder` and `Reranker` call `engine` and `engine_options`.

    Raises:
        ConfigError: An endpoint and another engine, or a part of a server without its address.
    """
    if endpoint is None:
        if engine == "remote" or dialect or template:
            raise ConfigError("which server? give its address as --endpoint URL")
        return {"engine": engine}
    if engine not in ("auto", "remote"):
        raise ConfigError(f"--endpoint runs the model on a server, and --engine {engine} does not")
    said = {"endpoint": endpoint, "dialect": dialect, "template": template}
    options = {name: value for name, value in said.items() if value is not None}
    return {"engine": "remote", "engine_options": options}


def default_model(task: str | None) -> str:
    """The model of a command that can take either kind and was given none."""
    if task == "rerank":
        return os.environ.get("QUERN_RERANK_MODEL", RERANKING_MODEL)
    return os.environ.get("QUERN_MODEL", EMBEDDING_MODEL)


def on_terminal() -> bool:
    """Whether somebody watches: progress is shown to people and not to pipes and log files."""
    return sys.stderr.isatty()

"""Options that several commands have, and the models that they describe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from quernstone import Embedder, Reranker
    from quernstone.types import Dtype, EngineName

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
    typer.Option("--dtype", help="auto, float32, bfloat16, float16.", rich_help_panel=_PANEL),
]
Engine = Annotated[str, typer.Option(help="auto, torch, transformers.", rich_help_panel=_PANEL)]
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
        engine=cast("EngineName", engine),
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
    instruction: str | None = None,
    batch_tokens: int | None = None,
) -> Reranker:
    """Load the reranking model that the options describe."""
    from quernstone import Reranker

    return Reranker(
        model,
        device=device,
        dtype=cast("Dtype", dtype),
        engine=cast("EngineName", engine),
        instruction=instruction,
        max_batch_tokens=batch_tokens,
    )


def on_terminal() -> bool:
    """Whether somebody watches: progress is shown to people and not to pipes and log files."""
    return sys.stderr.isatty()

"""Options that several commands share.

Each option is declared once. Options that always occur together are the fields of a dataclass,
which a command decorated with `expand_options` takes as one parameter.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quernstone.cli.templates import read_template
from quernstone.errors import ConfigError
from quernstone.types import DEVICES, TEXT_FIELDS

if TYPE_CHECKING:
    from quernstone import Embedder, Reranker
    from quernstone.types import Dtype, RerankTemplate

EMBEDDING_MODEL = "Qwen/Qwen3-Embedding-0.6B"
RERANKING_MODEL = "Qwen/Qwen3-Reranker-0.6B"

model_option = partial(typer.Option, rich_help_panel="Model")
output_option = partial(typer.Option, "--output", "-o")
table_option = partial(typer.Option, rich_help_panel="Files")
server_option = partial(typer.Option, rich_help_panel="Model on a server")

_MODEL_HELP = "Hub id, local folder, or `tiny` (bundled, works offline)."
EmbeddingModel = Annotated[
    str, model_option("--model", "-m", envvar="QUERN_MODEL", help=_MODEL_HELP)
]
RerankingModel = Annotated[
    str, model_option("--model", "-m", envvar="QUERN_RERANK_MODEL", help=_MODEL_HELP)
]
Dimensions = Annotated[
    int | None,
    model_option(help="Length of the vectors, 32 or more. (default: the model's full length)"),
]
Instruction = Annotated[
    str | None,
    model_option(help="The search task, in one English sentence. (default: the model's default)"),
]
Device = Annotated[str, model_option(help=f"Device to run on: {DEVICES}.")]
DtypeName = Annotated[
    str,
    model_option(
        "--dtype", help="Type of the weights: auto, float32, bfloat16, float16, int8, fp8."
    ),
]
Engine = Annotated[
    str,
    model_option(
        help="Engine that runs the model: auto, torch, transformers, sentence-transformers, vllm."
    ),
]
BatchTokens = Annotated[
    int | None, model_option(min=1, help="Most tokens per batch. (default: based on free memory)")
]
Endpoint = Annotated[
    str | None,
    server_option(
        metavar="URL", help="Address of a model server. Its API key is read from QUERN_API_KEY."
    ),
]
Dialect = Annotated[
    str | None,
    server_option(
        help="API of the server: openai, quernstone, vllm, tei, infinity, sglang, cohere, jina. "
        "(default: openai)"
    ),
]
RenderedBy = Annotated[
    str | None, server_option(help="Who renders the prompt of a reranker: client or server.")
]
Template = Annotated[
    str | None,
    model_option(
        metavar="NAME|FILE",
        help="Prompt of a reranker: card (as in the model card), eval (as in Qwen's evaluation), "
        "or a .json or .toml file with the fields of a PairTemplate. "
        "(default: the model's own, else card; in `quern eval` as the protocol requires)",
    ),
]
AdapterName = Annotated[
    str | None,
    model_option(
        "--adapter", help="LoRA adapter: its name in the model's folder, a folder, or a hub id."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
TextField = Annotated[
    str | None,
    table_option(
        help="Field with the text, or several, such as title,description, which are joined, one "
        f"per line after its name. (default: the first of {', '.join(TEXT_FIELDS)})"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True)
class TextOptions:
    """Options for reading files, and for the fields that form the text."""

    text_field: TextField = None
    text_template: Annotated[
        str | None,
        table_option(
            metavar="TEMPLATE",
            help="Text with fields in braces, such as '{title}, {year}'; \\n is a line break.",
        ),
    ] = None
    encoding: Annotated[
        str, table_option(help="Encoding of text, Markdown, CSV and JSON Lines files.")
    ] = "utf-8"
    delimiter: Annotated[
        str | None,
        table_option(help="Delimiter of CSV files. (default: by the first lines; tabs in .tsv)"),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `TableOptions`."""
        template = self.text_template
        if template is not None:
            template = template.replace("\\n", "\n").replace("\\t", "\t")
        return {
            "text_field": fields_of(self.text_field),
            "text_template": template,
            "encoding": self.encoding,
            "delimiter": {"\\t": "\t"}.get(self.delimiter or "", self.delimiter),
        }


def fields_of(text: str | None) -> tuple[str, ...] | None:
    """Split the value of an option at commas; None if the option is not given."""
    if text is None:
        return None
    return tuple(name for part in text.split(",") if (name := part.strip()))


@dataclass(frozen=True)
class EngineOptions:
    """Options for running a model on this machine."""

    device: Device = "auto"
    dtype: DtypeName = "auto"
    engine: Engine = "auto"
    adapter: AdapterName = None


@dataclass(frozen=True)
class ModelOptions(EngineOptions):
    """Options for running a model, on this machine or on a server."""

    endpoint: Endpoint = None
    dialect: Dialect = None
    batch_tokens: BatchTokens = None

    def embedder(self, model: str, **settings: Any) -> Embedder:
        """Load an embedding model. `settings` are further arguments of `Embedder`."""
        from quernstone import Embedder

        return Embedder(model, **self._shared_settings(), **settings)

    def _shared_settings(self, rendered_by: str | None = None) -> dict[str, Any]:
        return {
            "device": self.device,
            "dtype": cast("Dtype", self.dtype),
            "max_batch_tokens": self.batch_tokens,
            "adapter": self.adapter,
            **engine_settings(self.engine, self.endpoint, self.dialect, rendered_by),
        }


@dataclass(frozen=True)
class RerankerOptions(ModelOptions):
    """Options for running a reranking model, on this machine or on a server."""

    template: Template = None
    rendered_by: RenderedBy = None

    def reranker(
        self, model: str, *, default_template: RerankTemplate | None = None, **settings: Any
    ) -> Reranker:
        """Load a reranking model. `settings` are further arguments of `Reranker`."""
        from quernstone import Reranker

        rendered_by, template = self.rendered_by, self.template
        if template in ("client", "server"):  # the former spelling of --rendered-by
            rendered_by, template = rendered_by or template, None
        return Reranker(
            model,
            **self._shared_settings(rendered_by),
            template=read_template(template) or default_template,
            **settings,
        )


def open_embedder(
    model: str, *, dimensions: int | None = None, instruction: str | None = None, **options: Any
) -> Embedder:
    """Load an embedding model. `options` are fields of `ModelOptions`."""
    settings = ModelOptions(**options)
    return settings.embedder(model, dimensions=dimensions, instruction=instruction)


def open_reranker(model: str, *, instruction: str | None = None, **options: Any) -> Reranker:
    """Load a reranking model. `options` are fields of `RerankerOptions`."""
    return RerankerOptions(**options).reranker(model, instruction=instruction)


def engine_settings(
    engine: str, endpoint: str | None, dialect: str | None, rendered_by: str | None = None
) -> dict[str, Any]:
    """Return the arguments `engine` and `engine_options` of `Embedder` and `Reranker`.

    Raises:
        ConfigError: `--endpoint` with another engine, or server options without `--endpoint`.
    """
    if endpoint is None:
        if engine == "remote" or dialect or rendered_by:
            raise ConfigError("the address of the server is missing: pass --endpoint URL")
        return {"engine": engine}
    if engine not in ("auto", "remote"):
        raise ConfigError(
            f"--endpoint runs the model on a server, but --engine {engine} runs it here: pass one "
            "of them"
        )
    values = {"endpoint": endpoint, "dialect": dialect, "rendered_by": rendered_by}
    options = {name: value for name, value in values.items() if value is not None}
    return {"engine": "remote", "engine_options": options}


def default_model(task: str | None) -> str:
    """Return the default model of a task (embedding unless it is "rerank")."""
    if task == "rerank":
        return os.environ.get("QUERN_RERANK_MODEL", RERANKING_MODEL)
    return os.environ.get("QUERN_MODEL", EMBEDDING_MODEL)


def on_terminal() -> bool:
    """Return True if standard error is a terminal, and so progress can be shown."""
    return sys.stderr.isatty()
